"""The embeddings that come with the catalogue."""

import numpy as np
import pytest

from unseen.atlas import catalogue, index
from unseen.worlds import sentence_embedding as embedding


@pytest.mark.skipif(embedding.folder() is None, reason="needs the extra atlas")
def test_the_catalogue_comes_with_its_embeddings():
    model = embedding.embedder()
    entries = list(catalogue.papers().values())
    papers = [index.entry_document(entry).embedded for entry in entries]
    claims = [claim.says for entry in entries for claim in entry.claims]
    known = index.packed()
    # After a change of a text: python -m unseen.atlas.index
    assert {index.vector_digest(*said) for said in papers} | {index.vector_digest(c) for c in claims} == set(known)
    kept = np.stack([known[index.vector_digest(*said)] for said in papers[::40]])
    assert ((kept * model.papers(papers[::40])).sum(1) > 0.998).all()
