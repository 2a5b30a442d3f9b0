"""The critic: two regressions with the same numbers, one function of the seed, a pool that keeps what was computed."""

import copy
import pickle

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from torch import nn

import sb3_nigt.critic.critic
from sb3_nigt.algorithms.critic_tasks import value_network
from sb3_nigt.critic import Critic, ValueNetwork, seeded_value_network
from sb3_nigt.critic.numpy_regression import NumpyRegression, is_mlp
from sb3_nigt.critic.regression import TorchRegression
from sb3_nigt.critic.rows import Rows

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
DICT = spaces.Dict({"vector": VECTOR, "choice": spaces.Discrete(4)})
PICTURES = spaces.Dict({"vector": VECTOR, "image": IMAGE})
COMBINED = {"features_extractor_class": CombinedExtractor}
CNN = {"features_extractor_class": NatureCNN, "features_extractor_kwargs": {"features_dim": 8}, "net_arch": []}
MLPS = {
    "tanh": (VECTOR, {}),
    "relu": (VECTOR, {"activation_fn": nn.ReLU, "net_arch": [8, 4, 6]}),
    "linear": (VECTOR, {"net_arch": []}),
    "tasks": (VECTOR, {"n_tasks": 3, "net_arch": [5]}),
    "discrete": (spaces.Discrete(4), {"net_arch": [5]}),
    "dict": (DICT, {**COMBINED, "n_tasks": 2}),
}
OTHERS = {
    "image": (IMAGE, CNN),
    "dict_with_image": (PICTURES, {**COMBINED, "features_extractor_kwargs": {"cnn_output_dim": 8}}),
    "activation": (VECTOR, {"activation_fn": nn.ELU}),
}


def sampled(space, n_rows, rng):
    if isinstance(space, spaces.Dict):
        return {key: sampled(part, n_rows, rng) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return rng.integers(space.n, size=n_rows)
    if space.dtype == np.uint8:
        return rng.integers(256, size=(n_rows, *space.shape), dtype=np.uint8)
    return rng.standard_normal((n_rows, *space.shape), dtype=np.float32)


def some_rows(space, n_rows, seed=0):
    rng = np.random.default_rng(seed)
    return Rows.of(sampled(space, n_rows, rng), rng.standard_normal(n_rows), rng.integers(2, size=n_rows))


def vector_of(network):
    return nn.utils.parameters_to_vector(network.parameters()).detach().numpy()


def assert_same_regression(a, b, rtol):
    for x, y in (
        (vector_of(a.network), vector_of(b.network)),
        (a.adam_state().first, b.adam_state().first),
        (a.adam_state().second, b.adam_state().second),
    ):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x, y, rtol=0, atol=rtol * np.abs(y).max())
    assert a.adam_state().step == b.adam_state().step


def permutations(n_rows, n_epochs, seed):
    return [np.random.default_rng((seed, epoch)).permutation(n_rows) for epoch in range(n_epochs)]


@pytest.mark.parametrize(("dtype", "rtol"), [(th.float64, 1e-11), (th.float32, 2e-4)], ids=["float64", "float32"])
@pytest.mark.parametrize("name", MLPS)
def test_numpy_gives_the_numbers_of_torch(name, dtype, rtol):
    """``torch.optim.Adam`` and autograd against the sweep by hand, two fits, the last minibatch of each epoch smaller."""
    space, kwargs = MLPS[name]
    network = seeded_value_network(0, space, **kwargs).to(dtype)
    assert is_mlp(network)
    in_numpy, in_torch = NumpyRegression(network, 0.01), TorchRegression(copy.deepcopy(network), 0.01)
    before = vector_of(network).copy()
    for number, n_rows in enumerate((50, 33)):
        rows, orders = some_rows(space, n_rows, number), permutations(n_rows, 3, number)
        loss = in_numpy.fit(rows, orders, 16)
        assert loss == pytest.approx(in_torch.fit(rows, orders, 16), rel=rtol)
    assert_same_regression(in_numpy, in_torch, rtol)
    assert in_numpy.adam_state().step == 3 * (4 + 3)
    assert np.abs(vector_of(network) - before).max() > 0.05


def test_adam_state_can_be_handed_over():
    """A critic that was saved on a CPU continues on another device, in torch, and the other way round."""
    network = seeded_value_network(0, VECTOR).double()
    numpy_first, torch_first = NumpyRegression(network, 0.01), TorchRegression(copy.deepcopy(network), 0.01)
    rows, orders = some_rows(VECTOR, 40), permutations(40, 2, 0)
    for regression in (numpy_first, torch_first):
        regression.fit(rows, orders, 16)
    torch_second = TorchRegression(copy.deepcopy(numpy_first.network), 0.01)
    torch_second.set_adam_state(numpy_first.adam_state())
    numpy_second = NumpyRegression(copy.deepcopy(torch_first.network), 0.01)
    numpy_second.set_adam_state(torch_first.adam_state())
    for regression in (numpy_first, torch_first, torch_second, numpy_second):
        regression.fit(rows, orders, 16)
    for other in (torch_first, torch_second, numpy_second):
        assert_same_regression(other, numpy_first, 1e-11)


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_are_fitted_in_torch(name):
    space, kwargs = OTHERS[name]
    network = seeded_value_network(0, space, **kwargs)
    assert not is_mlp(network)
    critic, rows = Critic(network, seed=0, n_epochs=20), some_rows(space, 30)
    errors = []
    for _ in range(2):
        values = critic.values(rows.observations)
        errors.append(((values - rows.targets) ** 2).mean())
        critic.fit(rows.observations, rows.targets, values)
    assert errors[1] < 0.97 * errors[0]


def test_frozen_parameters_and_subclasses_are_left_to_torch():
    network = seeded_value_network(0, VECTOR)
    network.value_net.bias.requires_grad_(False)
    assert not is_mlp(network)
    assert not is_mlp(type("Other", (ValueNetwork,), {})(VECTOR))


class PartlyTrained(BaseFeaturesExtractor):
    """A frozen layer, a layer that is not used, and one that is trained."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 4)
        self.frozen, self.unused, self.trained = (nn.Linear(3, 4) for _ in range(3))
        self.frozen.requires_grad_(False)

    def forward(self, observations):
        return self.frozen(observations) + self.trained(observations)


def test_parameters_without_a_gradient_keep_their_place_in_the_state():
    """Restored, the critic goes on with the same bits; Adam's moments are 0 where there was no gradient."""
    first, second = (
        Critic(seeded_value_network(seed, VECTOR, features_extractor_class=PartlyTrained), seed=0) for seed in (0, 1)
    )
    rows = some_rows(VECTOR, 300)
    first.fit(rows.observations, rows.targets, np.zeros(300))
    second.load_state_dict(first.state_dict())
    for critic in (first, second):
        critic.fit(rows.observations, rows.targets, np.zeros(300))
    np.testing.assert_array_equal(first.vector(), second.vector())
    moments = dict(zip(*_by_name(first), strict=True))
    assert not moments["features_extractor.frozen.weight"].any()
    assert not moments["features_extractor.unused.weight"].any()
    assert moments["features_extractor.trained.weight"].any()


def _by_name(critic):
    names, parameters = zip(*critic.network.named_parameters(), strict=True)
    state = critic.state_dict()["adam"][2]
    return names, np.split(state, np.cumsum([p.numel() for p in parameters])[:-1])


def test_a_minibatch_of_one_row_with_batch_norm():
    network = seeded_value_network(0, VECTOR)
    network.hidden.insert(1, nn.BatchNorm1d(64))
    before = vector_of(network).copy()
    TorchRegression(network, 1e-3).fit(some_rows(VECTOR, 129), [np.arange(129)], 128)
    assert (vector_of(network) != before).any()
    assert int(network.hidden[1].num_batches_tracked) == 1


def test_a_network_that_is_frozen_later_stays_as_it_is():
    """First its last layer, which takes the moments along to torch, then all of it."""
    critic = Critic(seeded_value_network(0, VECTOR), seed=0)
    rows = some_rows(VECTOR, 200)
    critic.fit(rows.observations, rows.targets, np.zeros(200))
    step = critic.state_dict()["adam"][0]
    critic.network.value_net.requires_grad_(False)
    last = critic.network.value_net.weight.clone()
    first = critic.network.hidden[0].weight.clone()
    critic.fit(rows.observations, rows.targets, np.zeros(200))
    assert th.equal(critic.network.value_net.weight, last)
    assert not th.equal(critic.network.hidden[0].weight, first)
    assert critic.state_dict()["adam"][0] > step > 0
    critic.network.requires_grad_(False)
    before = vector_of(critic.network).copy()
    report = critic.fit(rows.observations, rows.targets, np.zeros(200))
    np.testing.assert_array_equal(vector_of(critic.network), before)
    assert report.value_loss > 0


def test_loss_and_explained_variance_by_hand():
    """With a learning rate of 0 the values stay V: the loss is the mean of (V - y)², here 1 + 4 over two rows."""
    critic = Critic(seeded_value_network(0, VECTOR), seed=0, learning_rate=0.0)
    observations = sampled(VECTOR, 2, np.random.default_rng(0))
    values = critic.values(observations)
    report = critic.fit(observations, values + np.array([1.0, -2.0]), values)
    assert report.value_loss == pytest.approx(2.5, rel=1e-5)
    targets = np.array([0.0, 2.0])  # variance 1, residuals (0, 1) of variance 1/4
    assert critic.fit(observations, targets, np.array([0.0, 1.0])).explained_variance == pytest.approx(0.75)
    assert critic.fit(observations, targets, targets).explained_variance == 1.0


def test_pool_keeps_four_rounds_with_the_targets_of_their_time():
    critic = Critic(seeded_value_network(0, VECTOR), seed=0)
    rounds = [some_rows(VECTOR, 3 + number, number) for number in range(6)]
    for rows in rounds:
        observations, targets = rows.observations.copy(), rows.targets.copy()
        critic.fit(observations, targets, targets)
        observations[:], targets[:] = np.nan, np.nan  # the caller's arrays are the caller's
    pooled = critic.pool.rows()
    assert np.array_equal(pooled.targets, np.concatenate([rows.targets for rows in rounds[2:]]))
    assert np.array_equal(pooled.observations, np.concatenate([rows.observations for rows in rounds[2:]]))


def test_a_fit_goes_four_times_over_all_rounds_of_the_pool():
    """200 rows are two batches of 128, with 120 more of the next round they are three: 4 · 2 steps of Adam, then 4 · 3."""
    critic, n_steps = Critic(seeded_value_network(0, VECTOR), seed=0), []
    for n_rows in (200, 120):
        rows = some_rows(VECTOR, n_rows)
        critic.fit(rows.observations, rows.targets, rows.targets)
        n_steps.append(critic.state_dict()["adam"][0])
    assert n_steps == [8, 20]


def test_a_fit_is_a_function_of_the_seed():
    rows = some_rows(VECTOR, 100)
    results = []
    for seed, global_seed in ((1, 0), (1, 99), (2, 0)):
        th.manual_seed(global_seed)
        before = th.get_rng_state()
        critic = Critic(seeded_value_network(7, VECTOR), seed)
        critic.fit(rows.observations, rows.targets, rows.targets)
        assert th.equal(th.get_rng_state(), before)
        results.append(vector_of(critic.network).copy())
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    assert not np.array_equal(vector_of(seeded_value_network(7, VECTOR)), vector_of(seeded_value_network(8, VECTOR)))


@pytest.mark.parametrize(("space", "kwargs"), [MLPS["dict"], OTHERS["image"]], ids=["numpy", "torch"])
def test_restored_critic_continues_with_the_same_bits(space, kwargs):
    rounds = [some_rows(space, 20, number) for number in range(6)]
    whole = Critic(seeded_value_network(0, space, **kwargs), seed=1)
    restored = Critic(seeded_value_network(5, space, **kwargs), seed=6)
    for number, rows in enumerate(rounds):
        if number == 3:
            whole.network.reward_scale.fill_(2.5)
            restored.load_state_dict(pickle.loads(pickle.dumps(whole.state_dict())))
        for critic in (whole,) if number < 3 else (whole, restored):
            critic.fit(rows.observations, rows.targets, rows.targets, rows.tasks)
    assert np.array_equal(vector_of(restored.network), vector_of(whole.network))
    assert restored.network.reward_scale == 2.5
    for a, b in zip(restored.state_dict()["adam"], whole.state_dict()["adam"], strict=True):
        assert np.array_equal(a, b)


def test_values_in_pieces(monkeypatch):
    rows = some_rows(PICTURES, 20)
    critic = Critic(seeded_value_network(0, PICTURES, n_tasks=2, **COMBINED), seed=0)
    whole = critic.values(rows.observations, rows.tasks)
    sizes = []
    critic.network.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    monkeypatch.setattr(sb3_nigt.critic.critic, "MAX_ELEMENTS", 7 * (36 * 36 + 3))
    np.testing.assert_allclose(critic.values(rows.observations, rows.tasks), whole, rtol=1e-5, atol=1e-6)
    assert sizes == [7, 7, 6]
    assert whole.dtype == np.float64
    assert critic.values({key: x[:0] for key, x in rows.observations.items()}).shape == (0,)


def test_values_depend_on_the_task_and_come_in_real_units():
    network = seeded_value_network(0, VECTOR, n_tasks=3)
    network.reward_scale.fill_(4.0)
    observations = th.as_tensor(some_rows(VECTOR, 5).observations)
    with th.no_grad():
        of_task = [network(observations, th.full((5,), task)) for task in range(3)]
        assert not th.allclose(of_task[0], of_task[1])
        assert th.equal(network.real_values(observations, th.ones(5, dtype=th.int64)), 4 * of_task[1])
        mean = network.real_values(observations)
        assert th.allclose(mean, 4 * sum(of_task) / 3, atol=1e-6)
        with pytest.raises(ValueError, match="tasks=None is not allowed with 3 tasks"):
            network(observations)


def test_a_policy_of_the_library_hands_on_its_features_extractor():
    """Of images, and of observations that are dicts."""
    pixels = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    for cls, space in ((ActorCriticCnnPolicy, pixels), (MultiInputActorCriticPolicy, spaces.Dict({"a": pixels}))):
        policy = cls(space, spaces.Discrete(2), lambda _: 0.1)
        network = value_network(policy, {})
        assert type(network.features_extractor) is type(policy.features_extractor)
        rows = {"a": np.zeros((2, 3, 36, 36), np.uint8)}
        assert Critic(network, 0).values(rows if cls is MultiInputActorCriticPolicy else rows["a"]).shape == (2,)


def test_initialisation_is_orthogonal():
    network = seeded_value_network(0, VECTOR)
    first, second, last = (layer.weight.detach() for layer in (network.hidden[0], network.hidden[2], network.value_net))
    assert th.allclose(first.T @ first, 2 * th.eye(3), atol=1e-5)
    assert th.allclose(second @ second.T, 2 * th.eye(64), atol=1e-5)
    assert float(last.norm()) == pytest.approx(1.0, rel=1e-5)
    assert all((layer.bias == 0).all() for layer in (network.hidden[0], network.hidden[2], network.value_net))


def test_tasks_that_the_network_was_not_made_for_share_a_value():
    network = ValueNetwork(spaces.Box(-1.0, 1.0, (3,)), n_tasks=2)
    observations = th.zeros(4, 3)
    values = network(observations, th.tensor([0, 1, 2, 7]))
    assert len(set(values.tolist())) == 3
    assert values[2] == values[3]
