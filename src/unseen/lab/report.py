def render(record, verdicts, evidence, svg, paper): return svg
