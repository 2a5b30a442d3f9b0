"""The estimator g_H: exact in expectation, equal to a slow reference on every kind of space, the same in pieces."""

import numpy as np
import pytest
import torch as th
from envs import coefficients, make_policy
from gymnasium import spaces
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.utils import obs_as_tensor
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution
from torch.nn.functional import logsigmoid
from toy_mdp import FEATURES, N_STATES, ToyEnv, all_paths, expected_return

import sb3_nigt.replica.gradients
from sb3_nigt.estimators.return_to_go import returns_to_go
from sb3_nigt.messages import SamplingPoint, TrajectoryKey
from sb3_nigt.parameters import flatten
from sb3_nigt.policies import MIN_STD, CnnPolicy, MlpPolicy, MultiInputPolicy, TanhGaussianDistribution
from sb3_nigt.replica.gradients import policy_gradient, sample_log_prob
from sb3_nigt.replica.replica import PolicyReplica
from sb3_nigt.sampling.trajectory import Trajectory, map_observation

POINT = SamplingPoint(0, np.zeros(0, dtype=np.float32))
VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)  # 36 is the smallest side that NatureCNN takes
CNN_ARGS = {"features_extractor_kwargs": {"features_dim": 8}}
SPACES = {
    "discrete": (MlpPolicy, VECTOR, spaces.Discrete(3), {}),
    "multi_discrete": (MlpPolicy, VECTOR, spaces.MultiDiscrete([2, 3]), {}),
    "multi_binary": (MlpPolicy, VECTOR, spaces.MultiBinary(3), {}),
    "box": (MlpPolicy, VECTOR, spaces.Box(np.float32([[-1, 0], [2, -3]]), np.float32([[1, 5], [3, -2]])), {}),
    "discrete_observation": (MlpPolicy, spaces.Discrete(4), spaces.Discrete(2), {}),
    "image": (CnnPolicy, IMAGE, spaces.Discrete(3), CNN_ARGS),
    "dict": (
        MultiInputPolicy,
        spaces.Dict({"vector": VECTOR, "image": IMAGE, "choice": spaces.Discrete(3)}),
        spaces.Box(-1.0, 1.0, (2,), np.float32),
        {"features_extractor_kwargs": {"cnn_output_dim": 8}},
    ),
}


class Flatten64(FlattenExtractor):
    def forward(self, obs):
        return super().forward(obs.double())


class Cnn64(NatureCNN):
    def forward(self, obs):
        return super().forward(obs.double())


class Combined64(CombinedExtractor):
    def forward(self, obs):
        return super().forward({key: value.double() for key, value in obs.items()})


def policy_in_float64(policy_class, observation_space, action_space, **kwargs):
    """Large random parameters; Stable-Baselines3 hands float32 observations to the extractor, which converts them."""
    extractor = {MlpPolicy: Flatten64, CnnPolicy: Cnn64, MultiInputPolicy: Combined64}[policy_class]
    kwargs = {"net_arch": [5], "features_extractor_class": extractor, **kwargs}
    policy = make_policy(observation_space, action_space, policy_class, **kwargs).double()
    generator = th.Generator().manual_seed(3)
    with th.no_grad():
        for p in policy.parameters():
            scale = 0.7 if p.ndim == 1 else p[0].numel() ** -0.5
            p.copy_(scale * th.randn(p.shape, generator=generator, dtype=th.float64))
    return policy


def random_trajectory(observation_space, action_space, length, rng, point=POINT):
    observation_space.seed(int(rng.integers(2**31)))
    observations = [observation_space.sample() for _ in range(length)]
    if isinstance(action_space, spaces.Box):
        samples = rng.standard_normal((length, int(np.prod(action_space.shape))), dtype=np.float32)
    else:
        action_space.seed(int(rng.integers(2**31)))
        samples = np.array([action_space.sample() for _ in range(length)])
        samples = samples.astype(np.float32 if isinstance(action_space, spaces.MultiBinary) else np.int64)
    return Trajectory(
        key=TrajectoryKey(0, 0, 0),
        point=point,
        observations=map_observation(lambda *rows: np.array(rows), *observations),
        final_observation=observation_space.sample(),
        samples=samples,
        actions=samples,
        rewards=rng.standard_normal(length),
        terminated=False,
        truncated=False,
        infos=[{} for _ in range(length)],
    )


def density_by_hand(policy, observation, sample):
    """log π of one sample at one observation, from the outputs of the last layer; constants without θ are left out."""
    obs = obs_as_tensor(map_observation(lambda x: x[None], observation), th.device("cpu"))
    outputs = policy.action_net(policy.mlp_extractor.policy_net(policy.extract_features(obs)))[0]
    space = policy.action_space
    if isinstance(space, spaces.Box):
        mean, raw = outputs.chunk(2)
        std = th.log1p(raw.exp()) + MIN_STD
        return (-0.5 * ((th.from_numpy(sample) - mean) / std) ** 2 - std.log()).sum()
    if isinstance(space, spaces.MultiBinary):
        return sum(logsigmoid(logit if bit else -logit) for logit, bit in zip(outputs, sample, strict=True))
    sizes = [space.n] if isinstance(space, spaces.Discrete) else space.nvec.tolist()
    choices = np.atleast_1d(sample)
    return sum(part.log_softmax(0)[c] for part, c in zip(outputs.split([int(n) for n in sizes]), choices, strict=True))


def slow_gradient(policy, trajectories, weights, gamma):
    """
    Σ_j w_j Σ_t (Σ_{h≥t} γ^h r_h) ∇ log π(a_t | s_t), one backward pass a step, in float64.

    Also returns Σ_j Σ_t |w_j C_t ∇ log π|: the fast one rounds its coefficients and its result to float32, each time by a
    relative 2^-24 at most, so it may differ by 2^-23 times this.
    """
    parameters = list(policy.parameters())
    gradient = th.zeros(sum(p.numel() for p in parameters), dtype=th.float64)
    magnitude = th.zeros_like(gradient)
    for trajectory, weight in zip(trajectories, weights, strict=True):
        for t in range(trajectory.n_steps):
            to_go = sum(gamma**h * trajectory.rewards[h] for h in range(t, trajectory.n_steps))
            observation = map_observation(lambda rows, t=t: rows[t], trajectory.observations)
            score = th.autograd.grad(density_by_hand(policy, observation, trajectory.samples[t]), parameters)
            term = weight * to_go * th.cat([s.reshape(-1) for s in score])
            gradient += term
            magnitude += term.abs()
    return gradient.numpy(), magnitude.numpy()


def assert_equal_up_to_float32(fast, slow, magnitude, pieces=1):
    error = np.abs(fast.double().numpy() - slow)
    assert (error <= (1 + pieces) * 2.0**-24 * magnitude + 1e-12 * magnitude.max()).all(), (error / magnitude.max()).max()
    assert np.abs(slow).max() > 0.01


@pytest.mark.parametrize("horizon", [1, 4])
@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_listed_paths_are_the_mdp(gamma, horizon):
    action_probs = np.array([[0.3, 0.7], [0.6, 0.4]])
    paths = all_paths(horizon)
    probabilities = [path.probability(action_probs) for path in paths]
    mean = sum(p * path.discounted_return(gamma) for p, path in zip(probabilities, paths, strict=True))
    assert sum(probabilities) == pytest.approx(1.0, abs=1e-14)
    assert mean == pytest.approx(expected_return(th.tensor(action_probs), gamma, horizon).item(), abs=1e-14)


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_expectation_of_the_estimator_is_the_gradient_of_j(gamma):
    """
    No sampling: the sum over all trajectories, each weighted by its probability, against autograd through backward induction.

    Only the rounding of the coefficients and of the result to float32 (6e-8 each) separates them.
    """
    horizon = 4
    policy = policy_in_float64(MlpPolicy, ToyEnv.observation_space, ToyEnv.action_space)
    action_probs = policy.get_distribution(th.as_tensor(FEATURES[:N_STATES])).distribution.probs
    j = expected_return(action_probs, gamma, horizon)
    exact = th.cat([g.reshape(-1) for g in th.autograd.grad(j, list(policy.parameters()))])

    paths = all_paths(horizon)
    assert any(path.terminated and len(path.actions) < horizon for path in paths)
    assert any(not path.terminated for path in paths)
    weights = [path.probability(action_probs.detach().numpy()) for path in paths]
    trajectories = [path.trajectory(POINT) for path in paths]
    expected = policy_gradient(policy, trajectories, coefficients(trajectories, weights, gamma))

    assert (expected - exact).norm() <= 1e-6 * exact.norm()


def test_returns_to_go_by_hand():
    """
    r = (1, 2, 3, 4), γ = 1/2: γ^h r_h = (1, 1, 3/4, 1/2), summed from the back (13/4, 9/4, 5/4, 1/2).

    γ = 0 keeps r_0 alone (0^0 = 1), γ = 1 is the plain reward-to-go.
    """
    rewards = np.array([1.0, 2.0, 3.0, 4.0])
    assert returns_to_go(rewards, 0.5).tolist() == [3.25, 2.25, 1.25, 0.5]
    assert returns_to_go(rewards, 0.0).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert returns_to_go(rewards, 1.0).tolist() == [10.0, 9.0, 7.0, 4.0]
    assert returns_to_go(np.zeros(0), 0.9).shape == (0,)


def test_gaussian_score_in_closed_form():
    """
    d/dμ log N(u; μ, σ) = (u-μ)/σ² and d/dσ = ((u-μ)² - σ²)/σ³; σ = softplus(x) + MIN_STD, so dσ/dx = sigmoid(x).

    x = log(e - 1) gives softplus(x) = 1 and sigmoid(x) = 1 - 1/e.
    """
    x, u = np.log(np.e - 1), th.tensor([[2.0, -1.0]], dtype=th.float64)
    outputs = th.tensor([[0.5, 0.0, x, x]], dtype=th.float64, requires_grad=True)
    (score,) = th.autograd.grad(TanhGaussianDistribution(2).proba_distribution(outputs).log_prob_gaussian(u), outputs)
    std = 1 + MIN_STD
    d_mean = np.array([1.5, -1.0]) / std**2
    d_std = (np.array([2.25, 1.0]) - std**2) / std**3
    np.testing.assert_allclose(score[0].numpy(), [*d_mean, *(d_std * (1 - 1 / np.e))], rtol=1e-12, atol=1e-15)


def test_tanh_jacobian_has_no_gradient():
    """The density of the action on the bounds differs from that of u by a term without θ: equal scores."""
    outputs = th.tensor([[0.4, -0.3, 0.2, -1.0]], dtype=th.float64, requires_grad=True)
    u = th.tensor([[0.7, -1.1]], dtype=th.float64)
    low, high = th.tensor([-1.0, 2.0], dtype=th.float64), th.tensor([3.0, 2.5], dtype=th.float64)
    middle, half = (high + low) / 2, (high - low) / 2
    ours = TanhGaussianDistribution(2).proba_distribution(outputs).log_prob_gaussian(u)
    mean, raw = outputs.chunk(2, dim=-1)
    base = Normal(mean, th.nn.functional.softplus(raw) + MIN_STD)
    squashed = TransformedDistribution(base, [TanhTransform(), AffineTransform(middle, half)])
    of_action = squashed.log_prob(middle + half * th.tanh(u)).sum(dim=1)

    jacobian = (half * (1 - th.tanh(u) ** 2)).log().sum()
    np.testing.assert_allclose((ours - of_action).item(), jacobian.item(), rtol=1e-10)
    scores = [th.autograd.grad(density, outputs)[0].numpy() for density in (ours, of_action)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-10)


def test_gaussian_score_through_the_network_by_finite_differences():
    """Central differences with step 1e-6 are off by about 1e-10 in float64."""
    policy = policy_in_float64(MlpPolicy, *SPACES["box"][1:3])
    obs = th.tensor([[0.3, -0.8, 0.5]])
    u = th.tensor([[0.2, -1.5, 0.9, 2.5]], dtype=th.float64)
    parameters = list(policy.parameters())
    score = th.autograd.grad(sample_log_prob(policy, obs, u).sum(), parameters)
    differences, step = [], 1e-6
    with th.no_grad():
        for flat in (p.view(-1) for p in parameters):
            for i in range(len(flat)):
                flat[i] += step
                above = sample_log_prob(policy, obs, u).item()
                flat[i] -= 2 * step
                differences.append((above - sample_log_prob(policy, obs, u).item()) / (2 * step))
                flat[i] += step
    np.testing.assert_allclose(th.cat([s.reshape(-1) for s in score]).numpy(), differences, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", SPACES)
def test_equals_slow_reference(name):
    policy_class, observation_space, action_space, kwargs = SPACES[name]
    policy = policy_in_float64(policy_class, observation_space, action_space, **kwargs)
    rng = np.random.default_rng(7)
    trajectories = [random_trajectory(observation_space, action_space, length, rng) for length in (1, 5, 3)]
    weights = [0.5, 0.25, 2.0]
    slow, magnitude = slow_gradient(policy, trajectories, weights, 0.9)
    assert_equal_up_to_float32(
        policy_gradient(policy, trajectories, coefficients(trajectories, weights, 0.9)), slow, magnitude
    )


@pytest.mark.parametrize(
    ("name", "limit", "max_rows"),
    [
        ("discrete", 12, 4),  # 3 numbers in one observation
        ("discrete", 14, 4),
        ("discrete", 1, 1),  # an observation larger than the limit is a piece of its own
        ("dict", 2 * (3 + 36 * 36 + 1), 2),
    ],
)
def test_pieces_change_only_the_rounding(name, limit, max_rows, monkeypatch):
    policy_class, observation_space, action_space, kwargs = SPACES[name]
    policy = policy_in_float64(policy_class, observation_space, action_space, **kwargs)
    rng = np.random.default_rng(8)
    trajectories = [random_trajectory(observation_space, action_space, length, rng) for length in (9, 1, 1, 3)]
    weights = [0.5, 0.25, 2.0, 1.0]
    slow, magnitude = slow_gradient(policy, trajectories, weights, 0.9)
    rows = []
    get_distribution = policy.get_distribution

    def recording(obs):
        rows.append(len(next(iter(obs.values())) if isinstance(obs, dict) else obs))
        return get_distribution(obs)

    monkeypatch.setattr(policy, "get_distribution", recording)
    monkeypatch.setattr(sb3_nigt.replica.gradients, "MAX_ELEMENTS", limit)
    fast = policy_gradient(policy, trajectories, coefficients(trajectories, weights, 0.9))
    assert sum(rows) == 14
    assert max(rows) == max_rows
    # every piece is added to the float32 sum, which rounds once more
    assert_equal_up_to_float32(fast, slow, magnitude, pieces=len(rows))


def test_frozen_parameters_get_zeros():
    policy = policy_in_float64(*SPACES["discrete"][:3])
    trajectories = [random_trajectory(VECTOR, spaces.Discrete(3), 4, np.random.default_rng(10))]
    full = policy_gradient(policy, trajectories, coefficients(trajectories, [1.0], 0.9))
    first = policy.mlp_extractor.policy_net[0].weight
    first.requires_grad_(False)
    partial = policy_gradient(policy, trajectories, coefficients(trajectories, [1.0], 0.9))
    frozen = th.cat([th.full((p.numel(),), p is first) for p in policy.parameters()])
    assert (full[frozen] != 0).any()
    assert (partial[frozen] == 0).all()
    assert th.equal(partial[~frozen], full[~frozen])


def test_transforms_of_the_sampling_point_are_applied():
    """The score is taken at the observation that the policy saw, the weights come from the rewards that are learned from."""
    policy = policy_in_float64(*SPACES["discrete"][:3])
    point = SamplingPoint(0, POINT.parameters, lambda obs: 2 * obs - 1, lambda rewards: rewards / 4 + 1)
    raw = random_trajectory(VECTOR, spaces.Discrete(3), 4, np.random.default_rng(11), point)
    by_hand = Trajectory(
        **{**vars(raw), "point": POINT, "observations": 2 * raw.observations - 1, "rewards": raw.rewards / 4 + 1}
    )
    slow, magnitude = slow_gradient(policy, [by_hand], [0.5], 0.9)
    assert_equal_up_to_float32(policy_gradient(policy, [raw], coefficients([raw], [0.5], 0.9)), slow, magnitude)


def test_replica_takes_each_gradient_at_the_point_that_sampled_it():
    replica = PolicyReplica(make_policy(VECTOR, spaces.Discrete(3), net_arch=[5], features_extractor_class=Flatten64))
    replica.policy.double()
    rng = np.random.default_rng(12)
    size = len(flatten(replica.policy))
    points = [SamplingPoint(r, rng.standard_normal(size).astype(np.float32)) for r in (0, 1)]
    trajectories = [random_trajectory(VECTOR, spaces.Discrete(3), n, rng, points[k]) for n, k in ((3, 0), (2, 1), (4, 0))]
    weights = [0.5, 2.0, 1.0]
    slow, magnitude = np.zeros(size), np.zeros(size)
    for trajectory, weight in zip(trajectories, weights, strict=True):
        th.nn.utils.vector_to_parameters(th.from_numpy(trajectory.point.parameters).double(), replica.policy.parameters())
        parts = slow_gradient(replica.policy, [trajectory], [weight], 0.9)
        slow, magnitude = slow + parts[0], magnitude + parts[1]
    gradient = replica.gradient(trajectories, coefficients(trajectories, weights, 0.9))
    assert_equal_up_to_float32(gradient, slow, magnitude, pieces=2)


@pytest.mark.parametrize(("shared", "exact", "from_scores"), [(True, 2.0, 4.0), (False, 0.0, 0.0)])
def test_one_noise_for_several_steps_is_not_covered_by_the_scores_of_the_steps(shared, exact, from_scores):
    """
    Why gSDE is refused: a_t = σ ε_t and the reward a_0 a_1, by Gauss-Hermite quadrature.

    J = σ² E[ε_0 ε_1], so dJ/d log σ is 2 σ² with one ε for both steps and 0 with two; a step's score by log σ is ε² - 1.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    weights = weights / weights.sum()
    sigma, step = 0.7, 1e-5
    first, second = (nodes, nodes) if shared else (nodes[:, None], nodes[None, :])
    probability = weights if shared else weights[:, None] * weights[None, :]

    def expected(values):
        return float((probability * values).sum())

    slope = (expected((sigma * np.exp(step)) ** 2 * first * second) - expected(sigma**2 * first * second)) / step
    assert slope == pytest.approx(exact * sigma**2, rel=1e-4, abs=1e-9)
    sum_of_scores = (first**2 - 1) + (second**2 - 1)
    assert expected(sigma**2 * first * second * sum_of_scores) == pytest.approx(from_scores * sigma**2, abs=1e-12)
