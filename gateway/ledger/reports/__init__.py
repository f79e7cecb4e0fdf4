"""Reports: questions about the ledger, their answers, and how they look on paper.

Rules:
- money is summed in integer nano-dollars; an average (a unit cost) is rounded once, half to even, when it is shown;
- a charge counts where and when its request does, so that a request's money is never split between two periods; one
  whose request is not booked yet counts by its own beginning;
- a charge of unknown cost is counted beside the sums (`unknown_charges`), never as 0;
- questions that the daily rollups can answer are answered from them, all others from the rows: the numbers are equal;
- every answer knows the SQL behind it, as anybody can run it on the ledger's file.

The way of an answer: `question` (what is asked, as SQL) → `answer` (runs it: lines, totals) with `margin`, `forecast`
and `baselines` beside → `paper` (table, CSV, JSON) or `page` (HTML, with `charts`). `listing` streams single rows,
`outlook` foretells budgets.
"""
