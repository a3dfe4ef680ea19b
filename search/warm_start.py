"""What samplers may learn from an earlier study: its networks, as far as they lie in another study's space."""

import logging
from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from genenet.errors import InputError
from genenet.genes import NetworkRoot
from genenet.wording import plural
from search import goals
from search.distributions import distribution_of, holds
from search.space import Domain, Draw, Space
from search.study import Study

logger = logging.getLogger("genenet")


class _Elsewhere(Exception):
    """A network does not lie in the space."""


def trials_of(earlier: Study, space: Space, objectives: Sequence[str], batch_size: int) -> list[FrozenTrial]:
    """The finished trials of a study, as another one may learn from them.

    What the later space draws and the earlier one did not is read from the blueprint. Scores are taken as they are: of
    another volume they are of another level, and the ranking is what may carry over.

    Args:
        earlier: With finished trials.
        space: Of the later study.
        objectives: Of the later study.
        batch_size: Of the later study, for objectives that count memory.

    Raises:
        InputError: The objectives are not known of the earlier study's networks.
    """
    own = earlier.optuna_study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    drawn = {trial.number: trial.params for trial in own if trial.params}
    found, n_done = [], 0
    for trial in earlier.trials():
        state = trial.state
        if state["state"] != "done" or trial.number not in drawn:
            continue
        n_done += 1
        blueprint = trial.blueprint
        missing = [name for name in objectives if name not in state and name in goals.MEASURED]
        if missing:
            raise InputError(
                f"{earlier.folder} does not know `{missing[0]}` of its networks, so there is nothing to learn"
            )
        try:
            params, distributions = parameters(space, blueprint, drawn[trial.number])
        except _Elsewhere:
            continue
        values = goals.values(tuple(objectives), state, blueprint, batch_size)
        attrs = {"study": str(earlier.folder.absolute()), "trial": trial.number}
        found.append(create_trial(params=params, distributions=distributions, values=values, user_attrs=attrs))
    logger.info("%s: %d of %s lie in this space", earlier.folder, len(found), plural(n_done, "finished network"))
    return found


def parameters(
    space: Space, blueprint: NetworkRoot, drawn: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """What a sampler would have drawn for a blueprint, by name.

    Args:
        space: In which it may lie.
        blueprint: What was trained.
        drawn: What an earlier study drew for it.
    """
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}

    def draw(name: str, domain: Domain) -> Any:
        hyperparameter, _, path = name.partition("@")
        if name in drawn:
            value = drawn[name]
        elif path:
            value = _delta(blueprint, path, hyperparameter) - _delta(space.base, path, hyperparameter)
        else:
            value = blueprint.value(hyperparameter)
        distribution = distribution_of(domain)
        if not holds(distribution, value):
            raise _Elsewhere(name)
        params[name], distributions[name] = value, distribution
        return value

    chosen: Draw = draw
    try:
        made = space.sample(chosen)
    except InputError as error:
        raise _Elsewhere(str(error)) from None
    if (made.kind, made.deltas) != (blueprint.kind, blueprint.deltas):
        raise _Elsewhere("what the space does not draw is another")
    return params, distributions


def _delta(net: NetworkRoot, path: str, name: str) -> Any:
    return net.deltas.get(path, {}).get(name, 0)
