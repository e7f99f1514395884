"""Differential: what a daemon answers, beside what MLflow answers to that request alone.

A round makes models, saves each as MLflow does, serves all by one daemon and asks them: first each
request alone, then in bursts from several threads, so that requests of one model share batches
with neighbours. Each answer is what `mlflow.pyfunc.load_model(...).predict` gave for that request,
within the tolerance of its datatype, or a refusal that the documents tell of. Anything else is a
contradiction, of which there must be none; the first of each family is made small and printed.

    cases.py      what a family, a model of it and its requests are; columns, tensors, values
    custom.py     families of Python models, by what they do with rows and how they answer
    tabular.py    families of models of tables; scikit-learn
    boosted.py    XGBoost, LightGBM, CatBoost
    statistical.py statsmodels: regressions, time series
    tensors.py    families of models of arrays; Python models, ONNX
    networks.py   torch, Keras
    texts.py      transformers, sentence-transformers
    equality.py   when an answer is MLflow's: the tolerances stand there
    refusals.py   which refusals are documented
    rounds.py     a round: models, requests, daemon, bursts, verdicts
    shrinking.py  a contradiction made small, by hypothesis
    report.py     progress and tables

hypothesis draws models and requests, from a seed that is printed. `make differential` runs it at
length: ANSWERS=1000000 SEED=7 FAMILIES="rank|softmax" (a regular expression) are its variables.

A family is one line of a table: a name, a function, its columns. To add one, add the line; to look
into one, run it alone by FAMILIES.
"""
