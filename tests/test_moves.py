"""Search moves: chances to deviate, mutation, crossover, and evolution."""

import numpy as np
import optuna
import pytest
from optuna.testing.pytest_samplers import BasicSamplerTestCase

import genenet as gn
from genenet.genes import PRESETS
from search.defaults import default_space
from search.evolution import EvolutionSampler
from search.moves import Mutation, crossover, mutate
from search.samplers import SeededSampler
from search.space import Choice, Levels, Range, Space


def space(**options):
    ranges = {
        "n_scales": Range(1, 3),
        "n_features": Levels(Range(8, 24), Range(-4, 4), Range(-4, 4), Range(-2, 2)),
        "n_convs": Levels(Range(1, 3), Range(0, 1), Range(-1, 1)),
        "merge": Levels(Choice("concatenate", "sum", "gate"), None, None, None, Range(-3, 1)),
        "log10_learning_rate": Range(-3.2, -2.2),
    }
    return Space(gn.EncoderDecoder(n_classes=3, window_size=64), ranges, **options)


def n_deviating(net):
    return sum(bool(entry) for path, entry in net.deltas.items() if path)


# -- chances to deviate ---


def test_genes_deviate_with_the_chance_of_their_level():
    rng = np.random.default_rng(0)
    never = [space(deviation=[0.0]).sample(rng) for _ in range(5)]
    assert all(n_deviating(net) == 0 for net in never)
    some = [space(deviation=[0.0, 0.3, 0.0]).sample(rng) for _ in range(100)]
    stacks = [path.count("/") for net in some for path in net.deltas if path]
    assert set(stacks) == {1}
    n_stacks = sum(2 * net.n_scales + 1 for net in some)
    # Four standard deviations around 0.3; a gene that deviates may draw zeros only.
    assert 0.3 * n_stacks * 0.7 < len(stacks) < 0.3 * n_stacks + 4 * (0.21 * n_stacks) ** 0.5


def test_without_chances_the_same_blueprints_as_before():
    plain, always = (space(**options).sample(np.random.default_rng(3)) for options in ({}, {"deviation": [1.0]}))
    assert plain == always
    again = Space.from_dict(space(deviation=[0.5]).to_dict())
    assert again.deviation == (0.5,)
    with pytest.raises(gn.InputError, match="`deviation` must be chances"):
        space(deviation=[2.0])


# -- moves ---


def within(net, chosen):
    """Every delta lies in the range of its level; the root's values in the root's."""
    for gene in net.genes.values():
        for name, declaration, entry in chosen.entries(gene):
            own = net.deltas.get(gene.path, {}).get(name, 0)
            if isinstance(entry, Choice):
                assert declaration.value(own) in entry.options
            else:
                assert entry.low <= own <= entry.high, (gene.path, name, own)


def test_mutations_stay_in_the_space_and_are_seeded():
    chosen = space()
    rng = np.random.default_rng(0)
    net = chosen.sample(rng)
    for step in range(60):
        child = mutate(net, chosen, np.random.default_rng(step))
        assert child == mutate(net, chosen, np.random.default_rng(step))
        assert child != net
        within(child, chosen)
        child.plan_layers()
        net = child


def test_rates_say_which_levels_change():
    chosen = space()
    net = chosen.sample(np.random.default_rng(1))
    only_root = Mutation(rates=(1.0, 0.0), scales=(0.5,))
    child = mutate(net, chosen, np.random.default_rng(0), only_root)
    assert {difference.path for difference in net.diff(child)} == {""}
    nothing = Mutation(rates=(0.0,), scales=(0.5,))
    assert mutate(net, chosen, np.random.default_rng(0), nothing) == net
    with pytest.raises(gn.InputError, match="`rates`"):
        Mutation(rates=(2.0,))
    with pytest.raises(gn.InputError, match="`scales`"):
        Mutation(scales=(0.0,))


def test_crossover_swaps_one_subtree():
    chosen, rng = space(), np.random.default_rng(5)
    first, second = chosen.sample(rng), chosen.sample(rng)
    for step in range(30):
        child = crossover(first, second, np.random.default_rng(step))
        paths = [difference.path for difference in first.diff(child)]
        assert paths and "" not in paths
        top = min(paths, key=len)
        shared = top if all(path.startswith(top) for path in paths) else top.rpartition("/")[0]
        for path in child.genes:
            if path and not path.startswith(shared):
                assert child.deltas.get(path, {}) == first.deltas.get(path, {})
        child.plan_layers()
    with pytest.raises(gn.InputError, match="a UNet and a DilatedNet have no subtrees in common"):
        crossover(gn.UNet(3), gn.DilatedNet(3), rng)


@pytest.mark.parametrize("kind", PRESETS, ids=lambda kind: kind.__name__)
def test_moves_keep_every_preset_valid(kind):
    chosen = default_space(3, preset=kind.__name__, window_size=64)
    rng = np.random.default_rng(0)
    nets = [chosen.sample(rng) for _ in range(6)]
    for mother, father in zip(nets, nets[1:], strict=False):
        crossover(mother, father, rng).plan_layers()
        mutate(mother, chosen, rng).plan_layers()


# -- evolution ---


class TestEvolutionConforms(BasicSamplerTestCase):
    """Optuna's own tests for samplers."""

    @pytest.fixture
    def sampler(self):
        return lambda: EvolutionSampler(population=3, tournament=2)


def run(sampler, n_trials, chosen, goal):
    from search.samplers import suggesting

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(lambda trial: goal(chosen.sample(suggesting(trial))), n_trials=n_trials)
    return [trial.value for trial in study.trials]


def test_evolution_climbs():
    """Towards the mean of the features over the stacks: after 60 trials well above random search."""
    chosen = space()

    def goal(net):
        stacks = [gene for gene in net.walk() if gene.path.count("/") == 1 and "stack" in gene.path]
        return float(np.mean([gene.n_features for gene in stacks]))

    for seed in range(3):
        evolved = run(EvolutionSampler(seed, population=8, tournament=4), 60, chosen, goal)
        random = run(optuna.samplers.RandomSampler(seed=seed), 60, chosen, goal)
        assert np.mean(evolved[-20:]) > np.mean(random[-20:]) + 3


def test_evolution_is_seeded_by_study_and_trial():
    chosen = space()
    values = [run(SeededSampler("evolution", 7), 25, chosen, lambda net: net.n_features) for _ in range(2)]
    assert values[0] == values[1]
    assert len(set(values[0])) > 5
