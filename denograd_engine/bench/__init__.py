"""The measuring stand: noise of a known size on data taken as the truth, methods that remove it, and what they recover.

    case = Case.of("prices", frame, schema)
    trial = contaminate(case, Noise("gaussian", 0.2), seed=0)
    method = resolve("denograd", Recipe())
    figures = measure(trial, method, seed=0, models=("ridge", "boosting"))

A whole comparison is a `Grid`, which `runner.run` works off cell by cell and `results.gather` reads.
"""
