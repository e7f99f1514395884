"""Statistical: families of statsmodels: regressions and time series."""

from typing import Any, Final

import numpy as np
import statsmodels.api as sm
import statsmodels.formula.api as smf
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from statsmodels.tsa.arima.model import ARIMA
from statsmodels.tsa.holtwinters import SimpleExpSmoothing

from .cases import Data
from .tabular import XZ, fitted, numbers


def _series() -> Any:
    return np.sin(np.arange(80) / 5.0) + np.arange(80) / 40.0


@st.composite
def _spans(draw: DrawFn) -> Data:
    """From where to where a series is wanted; seldom two spans, which no such model takes."""
    count = 1 if draw(st.integers(0, 5)) else 2
    start = draw(st.lists(st.integers(0, 90), min_size=count, max_size=count))
    length = draw(st.lists(st.integers(0, 30), min_size=count, max_size=count))
    first = np.array(start, np.int64)
    return {"start": first, "end": first + np.array(length, np.int64)}


FAMILIES: Final = (
    fitted(
        "ordinary least squares",
        "statsmodels",
        XZ,
        lambda d: sm.OLS(numbers(d), d).fit(),
        batches=True,
    ),
    fitted(
        "a formula",
        "statsmodels",
        XZ,
        lambda d: smf.ols("y ~ x + z", d.assign(y=numbers(d))).fit(),
        batches=True,
    ),
    fitted(
        "a formula with words",
        "statsmodels",
        "t:colour x:near",
        lambda d: smf.ols("y ~ C(t) + x", d.assign(y=numbers(d))).fit(),
    ),
    fitted(
        "a formula that centres anew",
        "statsmodels",
        XZ,
        lambda d: smf.ols("y ~ I(x - x.mean()) + z", d.assign(y=numbers(d))).fit(),
    ),
    fitted(
        "a time series",
        "statsmodels",
        "start:small end:small",
        lambda _: ARIMA(_series(), order=(1, 0, 0)).fit(),
        requests=_spans(),
    ),
    fitted(
        "a smoothed time series",
        "statsmodels",
        "start:small end:small",
        lambda _: SimpleExpSmoothing(_series(), initialization_method="estimated").fit(),
        requests=_spans(),
    ),
)
