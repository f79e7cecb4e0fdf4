"""Which model: the plan before a call, the judge after it, and what trains them offline.

Rooms:
    strategy               the seam `Strategy`: a request to a `Plan` of rungs; `Pinned` and `Cascade`
    judge                  a calibration read and used: is this question inside it, is this answer to be kept
    evidence               collects what a judge looks at from an answer's events
    probe, likeness        asking a model again about its answer, and what the reply is worth; how alike two texts are
    calls, schemas         tool calls in an answer, and whether JSON fits a client's schema
    train_questions, train_outcomes, train_judge
                           questions with known answers, graded replies, and the fit (scikit-learn; never when serving)
    train_tools            questions that offer tools, with checkable answers
    train_joint, train_trials
                           judges of several rungs fitted together, also by outcome records; whether their promise holds
    wording, estimators    what a prompt and an answer tell about each model of a ladder of any length (numpy only)
    artefact               the file that holds such estimators and the threshold that keeps a promise
    foresight              such a file made ready to serve: what it expects of a prompt, and when it steps aside
    forecast               the estimators' look at one prompt, the serving path's own
    by_prompt              plans by it: which rung answers, or which of the judged rungs are tried
    weighing               judges answers by it: keep one, or go to the rung that is worth most
    train_records, train_vectors, train_estimators, train_replay, train_metrics, train_certify, train_artefact,
    train_report           `faregate train` and `faregate evaluate`: outcome records to artefact, figures and plot
    train_promise          counts how often promises break, on populations whose true loss is known
    artefacts/             the default artefact and its model card
    calibrations/          shipped artefacts, by the two models' names

Decided here, other than the design to start from:
- On a route that promises something, nothing below the baseline answers without a calibration for the two models
  concerned, or an artefact trained on them whose threshold keeps the promise: a question or a form of request that
  these do not speak for goes to the baseline at once, and the request's row says why.
- A route of two rungs that promises nothing is chosen for by the artefact that ships, prompt by prompt: whoever lists a
  small model wants it used, and states `quality` where the loss must be bounded. It says so in `faregate check`.
- An artefact that judges answers (mode "cascade" or "combined") promises what its own threshold was certified for, on
  its records: its state is `prior` until audits of the route certify it. It reads answers whole, since records
  tell nothing of their beginning: a stream waits for its small answer's end. Its plan and its judge are those of the
  replay, so live prices and sessions are not looked at. Where a route has calibrations too, these alone judge.
- An artefact beside calibrations only chooses which questions the judges see. Their bounds are then those of the harm,
  which hold for any part of the answers, however chosen: no artefact can weaken a promise, and a judge that keeps it
  alone but not so answers nothing.
- A conversation is judged only by a calibration that has conversations (200 at least), up to its longest, or where
  audits of conversations certify it (`gateway.audit`; likewise questions with tools): each form of
  question is held to a bound of its own, so that a promise holds for any mixture of the two. It is placed by its last
  user text, and its answer is weighed in the whole context. What such a calibration does not know is a conversation in
  which the small model wrote earlier turns itself: audits watch that. Artefacts are trained on single prompts and know
  of no conversation; those go the static way.
- Difficulty is not guessed from words: a question is placed among the calibration's clusters by its embedding, and each
  cluster starts small where that is cheaper in core time, rejected attempts paid.
- Several judged rungs that were calibrated apart share the route's loss and risk equally, and are held to bounds of the
  harm (the loss's positive part): a rung above another answers only what that one did not keep, and a bound of the
  signed loss over all questions says nothing about a part of them. One judged rung goes by the signed loss and by its
  calibration's own clusters, and so do several that were fitted together (`faregate calibrate --outcomes`): one
  threshold for all, the whole ladder's loss tested once, and every part of the ladder with it, since an endpoint may be
  down. Such calibrations serve together or not at all.
- Of outcome records a judge knows an answer's mean log-probability and length, so it weighs nothing else of served ones
  (the other features have no weight), and whole answers only: streams are held back to their end.
- Which of the permitted rungs are tried is decided in dollars over all their sequences (`strategy.Tables`, by the
  calibrations' keep rates behind the seam `strategy.Estimator`, moved by what an artefact expects). A session's cached
  prefix is part of the price, also of a single judged rung: it depends on what was asked before, not on the answer.
- Requests that offer tools are a form of their own in a calibration, with its own window and bounds: a threshold has
  to keep the promise for them alone and for the others alone, so that it holds for any mixture of the two.
- Asking a model again (self-check, second sample) replaces log-probabilities and is not mixed with them. By hand, of
  172 answers of the demo's 0.5B model (2026-11-21): AUC .55 by the share of yes, .57 by the word, mean log-probability
  .69 of the same answers; two samples .76 to .78 of 26. So small a model hardly knows when it is right: try agreement.
- Fitted together, judges of three rungs save more than apart, and their promise holds: of 1,000 calibrations of a loss
  of .01 at 90 % with gpt-4o-mini, qwen2.5-72b and gpt-4o (2026-11-21, `python -m router.train_trials`, five tasks,
  3,861 rows) 2.3 % truly lost more, at 40.2 % of dollars saved (apart: none, 31.7 %); with 1,000 rows 1.0 % of 200, at
  33.6 % (none, 15.9 %); with llama 8b, 70b and 405b 5.4 % of 500, at 41.0 % (none, 24.4 %). That is short of the 60 %
  aimed at for the first ladder: in hindsight these judges save 53 %. They weigh one slope of the signal and no price.
- Shipped questions hold no tools. Of those of `router.train_tools`, 47 to the demo's 0.5B and 16 to its 1.5B (by hand,
  2026-11-21), neither answered one by a call: 41 and 11 answers had calls written out as text, which no client can use;
  right were 4 and 4, where none was due. There is nothing in that to certify.
"""
