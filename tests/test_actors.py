"""Acting: the NumPy network is the torch network, and what is drawn from it has the right distribution, space and dtype."""

import gymnasium as gym
import numpy as np
import pytest
from envs import make_policy
from gymnasium import spaces
from scipy import stats
from scipy.special import expit, log_softmax, softmax
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn
from toy_mdp import FEATURES, N_STATES, ToyEnv, all_paths

from sb3_nigt.messages import SamplingPoint, TrajectoryKey
from sb3_nigt.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, TanhGaussianDistribution
from sb3_nigt.replica.network import has_numpy_network
from sb3_nigt.replica.replica import PolicyReplica
from sb3_nigt.sampling.heads import make_head
from sb3_nigt.sampling.sampler import FIRST_ROWS, FreshNoise, Sampler
from sb3_nigt.sampling.seeding import trajectory_seeds

VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
DICT = spaces.Dict({"vector": VECTOR, "choice": spaces.Discrete(3)})
ACTIONS = {
    "box": spaces.Box(-1.0, 1.0, (2,), np.float32),
    "box_asymmetric": spaces.Box(np.float32([-0.1, 0.7, -5.0]), np.float32([0.3, 1000.1, -4.5]), dtype=np.float32),
    "box_2x2": spaces.Box(np.float32([[-1, 0], [2, -3]]), np.float32([[1, 0.1], [3, -2.7]]), dtype=np.float32),
    "box_float64": spaces.Box(np.array([-0.1, 1.0]), np.array([0.3, 1.1]), dtype=np.float64),
    "discrete": spaces.Discrete(4),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(3),
}


def begin(sampler, key, point, network):
    seeds = trajectory_seeds(5, key)
    sampler.begin(key, point, network, seeds.env, FreshNoise(sampler.head, seeds.actions))


def overriding(method):
    """A policy that overrides a method without changing what it does, which cannot be known: runs in torch."""
    return type("Overriding", (MlpPolicy,), {method: lambda self, *args: getattr(MlpPolicy, method)(self, *args)})


class OwnExtractor(FlattenExtractor):
    pass


class OwnTrunk(MlpPolicy):
    """Whatever ``activation_fn`` says."""

    def _build_mlp_extractor(self):
        self.mlp_extractor = MlpExtractor(self.features_dim, {"pi": [8], "vf": []}, activation_fn=nn.ReLU)


class HalvedGaussian(TanhGaussianDistribution):
    def proba_distribution(self, outputs):
        return super().proba_distribution(0.5 * outputs)


class OwnDistribution(MlpPolicy):
    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.action_dist = HalvedGaussian(self.action_dist.action_dim)


class DriftEnv(gym.Env):
    """The state is pulled towards the origin and pushed by noise and by the action; ends at a given step."""

    def __init__(self, action_space, observation_space=VECTOR, length=10**6):
        self.action_space, self.observation_space, self.length = action_space, observation_space, length

    def _observation(self):
        vector = self.state.astype(np.float32)
        return {"vector": vector, "choice": self.t % 3} if self.observation_space is DICT else vector

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.state = 0, self.np_random.uniform(-1, 1, 3)
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        push = float(np.tanh(np.sum(action)))
        self.state = np.tanh(0.5 * self.state + 0.3 * push + 0.1 * self.np_random.standard_normal(3))
        return self._observation(), float(self.state[0]), self.t == self.length, False, {"t": self.t}


def make_replica(action_space, observation_space=VECTOR, policy_class=MlpPolicy, **policy_kwargs):
    """A replica, and a point with parameters so large that the outputs are of order one."""
    policy = make_policy(observation_space, action_space, policy_class, **policy_kwargs)
    replica, rng = PolicyReplica(policy), np.random.default_rng(0)
    values = [
        rng.standard_normal(p.numel()) * (0.5 if p.ndim == 1 else p[0].numel() ** -0.5) for p in replica.policy.parameters()
    ]
    return replica, SamplingPoint(0, np.concatenate(values).astype(np.float32))


def normalised(space, parameters):
    """What the parameters mean: logits are defined up to a constant."""
    if isinstance(space, spaces.Box):
        return parameters
    if isinstance(space, spaces.MultiBinary):
        return expit(parameters)
    sizes = [space.n] if isinstance(space, spaces.Discrete) else space.nvec
    parts = np.split(parameters, np.cumsum(sizes)[:-1], axis=-1)
    return np.concatenate([softmax(part, axis=-1) for part in parts], axis=-1)


def assert_networks_agree(replica, point, observations):
    single, batch = replica.network(point), replica.batch_network(point)(observations)
    one_by_one = np.array([single(observation) for observation in observations])
    space = replica.policy.action_space
    assert np.ptp(one_by_one, axis=0).min() > 0.01  # the outputs depend on the observations
    # float32 keeps seven digits, sums of up to 300 terms of both signs may lose one and a half
    np.testing.assert_allclose(normalised(space, one_by_one), normalised(space, batch), rtol=1e-5, atol=1e-5)
    assert one_by_one.dtype == batch.dtype == np.float32


def run(replica, point, env, horizon, portions=(10**6,), number=0):
    """One trajectory, in portions that repeat until it has ended."""
    sampler, key = Sampler(env, replica.head, horizon), TrajectoryKey(0, 0, number)
    begin(sampler, key, point, replica.network(point))
    for k in range(10**6):
        if sampler.finished:
            return sampler
        sampler.advance(portions[k % len(portions)])
    raise AssertionError("a portion of zero steps")


def assert_same(one, other):
    for name in ("observations", "final_observation", "samples", "actions", "rewards"):
        a, b = getattr(one, name), getattr(other, name)
        for key in a if isinstance(a, dict) else [...]:  # array[...] is the array
            np.testing.assert_array_equal(a[key], b[key])
    assert (one.terminated, one.truncated, one.infos) == (other.terminated, other.truncated, other.infos)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("net_arch", [[], [7], [64, 64], [200, 300]], ids=str)  # the last one exceeds a block of rows
def test_numpy_network_for_architectures(net_arch, activation):
    replica, point = make_replica(ACTIONS["box"], net_arch=net_arch, activation_fn=activation)
    assert has_numpy_network(replica.policy)
    assert_networks_agree(replica, point, np.random.default_rng(1).uniform(-1, 1, (20, 3)).astype(np.float32))


@pytest.mark.parametrize("name", ACTIONS)
def test_numpy_network_for_action_spaces(name):
    replica, point = make_replica(ACTIONS[name])
    assert has_numpy_network(replica.policy)
    assert_networks_agree(replica, point, np.random.default_rng(2).uniform(-1, 1, (20, 3)).astype(np.float32))


@pytest.mark.parametrize(
    ("space", "kwargs"),
    [
        (spaces.Box(-1.0, 1.0, (2, 3), np.float32), {}),
        (spaces.Box(-1.0, 1.0, (2,), np.float64), {}),
        (spaces.Box(-3, 3, (4,), np.int64), {}),
        (spaces.Box(0, 255, (1, 6, 6), np.uint8), {"normalize_images": False}),
    ],
)
def test_numpy_network_for_observations(space, kwargs):
    replica, point = make_replica(ACTIONS["box"], space, **kwargs)
    assert has_numpy_network(replica.policy)
    space.seed(0)
    assert_networks_agree(replica, point, np.array([space.sample() for _ in range(20)]))


@pytest.mark.parametrize(
    ("observation_space", "policy_class", "kwargs"),
    [
        (VECTOR, MlpPolicy, {"activation_fn": nn.ELU}),
        (VECTOR, MlpPolicy, {"features_extractor_class": OwnExtractor}),
        (VECTOR, overriding("get_distribution"), {}),
        (VECTOR, overriding("extract_features"), {}),
        (VECTOR, overriding("_get_action_dist_from_latent"), {}),
        (VECTOR, ActorCriticPolicy, {}),
        (IMAGE, MlpPolicy, {}),  # divides by 255
        (IMAGE, CnnPolicy, {"features_extractor_kwargs": {"features_dim": 8}}),
        (spaces.Discrete(5), MlpPolicy, {}),
        (DICT, MultiInputPolicy, {}),
    ],
)
def test_other_policies_run_in_torch(observation_space, policy_class, kwargs):
    policy = make_policy(observation_space, ACTIONS["box"], policy_class, **kwargs)
    assert not has_numpy_network(policy)


@pytest.mark.parametrize("policy_class", [OwnTrunk, OwnDistribution])
def test_overridden_parts_are_honoured(policy_class):
    """In NumPy or in torch: what acts is the policy."""
    replica, point = make_replica(ACTIONS["box"], policy_class=policy_class)
    assert_networks_agree(replica, point, np.random.default_rng(1).uniform(-1, 1, (20, 3)).astype(np.float32))


@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("extreme", [-50.0, 50.0, None])
def test_actions_lie_in_the_space(name, extreme):
    """Singly and in batches, with saturated distributions too; both ways give the same."""
    replica, _ = make_replica(ACTIONS[name])
    head, space, rng = replica.head, ACTIONS[name], np.random.default_rng(3)
    noise = head.noise(rng, 50)
    n_parameters = replica.policy.action_net.out_features
    parameters = np.abs(rng.standard_normal((50, n_parameters))).astype(np.float32)
    if extreme is not None:
        parameters[:, : n_parameters // 2] = extreme
    samples, actions = head.draw(parameters, noise)
    assert samples.shape == (50, *head.sample_shape)
    assert actions.shape == (50, *space.shape)
    for k in range(50):
        sample, action = head.draw(parameters[k], noise[k])
        assert space.contains(action)
        assert action.dtype == actions.dtype == space.dtype
        np.testing.assert_array_equal(sample, samples[k])
        np.testing.assert_allclose(action, actions[k], rtol=1e-6)


@pytest.mark.parametrize(("low", "high", "dtype"), [(1.0, 1.1, np.float32), (-4.4, -4.0, np.float32), (2.0, 2.1, np.float64)])
def test_saturated_actions_lie_in_narrow_bounds(low, high, dtype):
    space = spaces.Box(low, high, (1,), dtype)
    head = make_replica(space)[0].head
    actions = [head.draw(np.float32([u, 1.0]), np.zeros(1, np.float32))[1] for u in (-50.0, 50.0)]
    assert all(space.contains(action) for action in actions), actions


@pytest.mark.parametrize("name", ACTIONS)
def test_without_noise_the_head_takes_the_mode(name):
    """The action that ``predict(deterministic=True)`` gives: μ squashed onto the bounds, the likeliest category or bit."""
    replica, point = make_replica(ACTIONS[name])
    observations = np.random.default_rng(4).uniform(-1, 1, (20, 3)).astype(np.float32)
    parameters = replica.batch_network(point)(observations)
    noise = np.zeros_like(replica.head.noise(np.random.default_rng(0), 20))
    _, actions = replica.head.draw(parameters, noise)
    np.testing.assert_allclose(actions, replica.policy.predict(observations, deterministic=True)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["discrete", "multi_discrete", "multi_binary"])
def test_frequencies_of_discrete_heads(name):
    """Chi-square test of the joint distribution over all actions: the factors are independent, too."""
    n = 20_000
    logits = {"discrete": [0.5, -1, 0, 1.2], "multi_discrete": [1, 0.3, -0.5, 0, 0.9], "multi_binary": [0.4, -1.1, 0]}
    replica, _ = make_replica(ACTIONS[name])
    parameters = np.tile(np.float32(logits[name]), (n, 1))
    _, actions = replica.head.draw(parameters, replica.head.noise(np.random.default_rng(5), n))
    if name == "multi_binary":
        factors = [[1 - p, p] for p in expit(logits[name])]
    else:
        sizes = {"discrete": [4], "multi_discrete": [2, 3]}[name]
        factors = [np.exp(log_softmax(part)) for part in np.split(np.array(logits[name]), np.cumsum(sizes)[:-1])]
    expected = factors[0]
    for factor in factors[1:]:
        expected = np.outer(expected, factor).reshape(-1)
    shape = [len(factor) for factor in factors]
    cells = np.ravel_multi_index(tuple(actions.reshape(n, -1).T), shape)
    counts = np.bincount(cells, minlength=len(expected))
    assert stats.chisquare(counts, n * expected).pvalue > 1e-3


@pytest.mark.parametrize("name", ["box_asymmetric", "box_2x2", "box_float64"])
def test_distribution_of_the_gaussian_head(name):
    """u is N(μ, σ²) in each component, the components are uncorrelated, and the action is tanh(u) mapped onto the bounds."""
    n, space = 20_000, ACTIONS[name]
    head = make_replica(space)[0].head
    mean, std = np.linspace(-0.5, 0.8, head.size), np.linspace(0.4, 1.5, head.size)
    parameters = np.tile(np.float32([*mean, *std]), (n, 1))
    samples, actions = head.draw(parameters, head.noise(np.random.default_rng(6), n))
    for k in range(head.size):
        assert stats.kstest(samples[:, k], stats.norm(mean[k], std[k]).cdf).pvalue > 1e-3
    correlations = np.corrcoef(samples.T)[np.triu_indices(head.size, 1)]
    assert (np.abs(correlations) < 4 / n**0.5).all()  # four standard deviations
    mapped = space.low + (np.tanh(samples.reshape(actions.shape)) + 1) / 2 * (space.high - space.low)
    np.testing.assert_allclose(actions, mapped, rtol=1e-5, atol=1e-5 * np.abs(space.high - space.low).max())


def test_unsquashed_gaussian_is_clipped():
    """Stable-Baselines3's own diagonal Gaussian: bounds (-0.1, 0.3), u = μ + σε."""
    space = spaces.Box(-0.1, 0.3, (3,), np.float32)
    policy = make_policy(VECTOR, space, ActorCriticPolicy)
    sample, action = make_head(policy).draw(np.float32([0.0, 0.5, 0.1, 1.0, 2.0, 1.0]), np.float32([-2.0, 1.0, 0.1]))
    assert sample.tolist() == pytest.approx([-2.0, 2.5, 0.2], rel=1e-6)
    assert action.tolist() == pytest.approx([-0.1, 0.3, 0.2], rel=1e-6)
    assert space.contains(action)


def test_sampled_trajectories_have_their_probabilities():
    """Chi-square test over all trajectories of two steps; the ones expected less than five times form one cell."""
    n, horizon = 3000, 2
    replica, point = make_replica(ToyEnv.action_space, ToyEnv.observation_space)
    action_probs = softmax(replica.batch_network(point)(FEATURES[:N_STATES]).astype(np.float64), axis=-1)
    paths, env = all_paths(horizon), ToyEnv()
    index = {(path.states, path.actions): k for k, path in enumerate(paths)}
    states = {tuple(row): s for s, row in enumerate(FEATURES.tolist())}
    counts = np.zeros(len(paths))
    for number in range(n):
        t = run(replica, point, env, horizon, number=number).trajectory()
        visited = [*t.observations.tolist(), t.final_observation.tolist()]
        k = index[tuple(states[tuple(row)] for row in visited), tuple(t.actions.tolist())]
        assert t.rewards.tolist() == list(paths[k].rewards)
        assert t.terminated == paths[k].terminated
        counts[k] += 1
    expected = n * np.array([path.probability(action_probs) for path in paths])
    rare = expected < 5
    merged = [[*x[~rare], x[rare].sum()] for x in (counts, expected)]
    assert len(merged[0]) > 20
    assert stats.chisquare(*merged).pvalue > 1e-3


@pytest.mark.parametrize("length", [10**6, 100], ids=["cut", "terminated"])
@pytest.mark.parametrize("name", ["box_2x2", "discrete", "multi_binary", "dict"])
def test_portions_do_not_matter(name, length):
    """In one go or in portions, equal bit for bit; the trajectory outgrows the rows it started with."""
    observation_space, policy_class = (DICT, MultiInputPolicy) if name == "dict" else (VECTOR, MlpPolicy)
    action_space = ACTIONS["box" if name == "dict" else name]
    replica, point = make_replica(action_space, observation_space, policy_class)
    env, horizon = DriftEnv(action_space, observation_space, length), 150
    whole = run(replica, point, env, horizon).trajectory()
    assert whole.n_steps == min(horizon, length) > FIRST_ROWS
    assert whole.terminated == (length < horizon)
    kept = run(replica, point, env, horizon, (1, 7, 40, 3, 29))
    assert_same(kept.trajectory(), whole)
    assert whole.infos[-1] == {"t": whole.n_steps}

    # the first 80 steps are those of a trajectory cut there
    assert_same(kept.trajectory(80), run(replica, point, env, 80).trajectory())
    # another trajectory from the same sampler does not touch the ones handed out
    earlier, key = kept.trajectory(), TrajectoryKey(0, 0, 1)
    begin(kept, key, point, replica.network(point))
    kept.advance(horizon)
    assert_same(earlier, whole)
    assert kept.trajectory().rewards.tolist() != whole.rewards.tolist()


@pytest.mark.parametrize("name", ["box_2x2", "multi_discrete", "multi_binary"])
def test_numpy_and_torch_act_alike(name):
    """The same random numbers through both networks: the same trajectory up to the rounding of the parameters."""
    env, trajectories = DriftEnv(ACTIONS[name]), []
    for policy_class in (MlpPolicy, overriding("get_distribution")):
        replica, point = make_replica(ACTIONS[name], policy_class=policy_class)
        trajectories.append(run(replica, point, env, 50).trajectory())
    for attribute in ("samples", "actions", "observations"):
        values = [getattr(trajectory, attribute) for trajectory in trajectories]
        np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-4)
