"""Refinement of all columns at once, with an uncertainty for every cell: the rule `posterior`.

Each cell is predicted from everything but itself (a blind-spot network: Batson and Royer, Noise2Self, 2019; Laine et
al., 2019), as a mixture of Gaussians that the clean cell is drawn from, fitted by the likelihood of the noisy cells
under known noise. Its posterior given its own measurement follows in closed form. It is not the published rule.

    contexts      what a cell is predicted from, in tables and in series
    levels        what frozen columns say by themselves
    gaussian      the linear part: exact for a joint Gaussian, whatever is missing
    network       what the linear part leaves open, learnt
    mixture       densities of clean cells, and their posteriors
    faults        cells that are wrong altogether
    folds         who may speak of which item
    task          what is to be learnt, and how
    lessons       what a network is shown for that
    fitting       cross-fitted training
    departures    noise that is not as the model takes it to be
    calibration   how far to trust it, from the noisy data alone
    seasons       distant steps worth looking at
    model         all of it, fitted
    refining      applied to a table
    saving        as plain data and tensors
"""
