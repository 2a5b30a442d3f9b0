"""
Workers act and differentiate with the policy as it is, whatever has been done to it; a new kind of workers inherits this.

The expected numbers come from the live policy itself, evaluated at the point of the round.
"""

import threading
from functools import partial

import numpy as np
import pytest
import torch as th
from envs import LengthFromSeedEnv, coefficients, keep_outputs, parameters, run_rounds
from paper import MaleniaNIGT, RennalaNIGT, SyncNIGT
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from torch import nn

from sb3_nigt import NIGT, AFedPG, RennalaPG, SyncPG
from sb3_nigt.parameters import flatten, load_flat
from sb3_nigt.replica.gradients import policy_gradient
from sb3_nigt.replica.network import TorchNetwork, has_numpy_network
from sb3_nigt.sampling.heads import make_head
from sb3_nigt.sampling.seeding import trajectory_seeds

ALPHA, ETA, HORIZON, GAMMA = 0.1, 0.1, 6, 0.99
LARGE = 2.0**30  # around it float32 knows multiples of 64 only


class Mixed(BaseFeaturesExtractor):
    """Depends on an integer buffer, a float64 buffer, a tensor that is neither buffer nor parameter, and a number."""

    def __init__(self, space):
        super().__init__(space, 2)
        self.register_buffer("order", th.arange(2))
        self.register_buffer("scale", th.full((2,), LARGE + 1.0, dtype=th.float64))
        self.shift = th.zeros(2)
        self.factor = 1.0

    def forward(self, x):
        return (self.scale - LARGE).float() * x[:, self.order] * self.factor + self.shift


class Encoded(BaseFeaturesExtractor):
    """With an encoder that is made elsewhere."""

    def __init__(self, space, encoder=None, n_outputs=3):
        super().__init__(space, n_outputs)
        self.encoder = nn.Linear(2, n_outputs) if encoder is None else encoder

    def forward(self, x):
        return th.tanh(self.encoder(x))


class Frozen(Encoded):
    def __init__(self, space):
        super().__init__(space)
        self.requires_grad_(False)


class NoGradientForFrozen(th.optim.AdamW):
    """Its decay moves whatever has a gradient, zeros included."""

    def step(self, closure=None):
        for group in self.param_groups:
            assert all((p.grad is not None) == p.requires_grad for p in group["params"])
        return super().step(closure)


class TwoGroups(NIGT):
    """Vectors in the first group, matrices in the second: another order than that of the policy."""

    def __init__(self, params, lr=0.01, eta=0.1):
        params = list(params)
        groups = [[p for p in params if p.ndim < 2], [p for p in params if p.ndim > 1]]
        super().__init__([{"params": group} for group in groups], lr=lr, eta=eta)


class Lockable(FlattenExtractor):
    def __init__(self, space):
        super().__init__(space)
        self.lock = threading.Lock()


class Shared(Encoded):
    def __deepcopy__(self, memo):
        return self


class Closure(Encoded):
    """A copy of its function would go on with the encoder of the original."""

    def __init__(self, space):
        super().__init__(space)
        encoder = self.encoder

        def forward(x):
            return encoder(x)

        self.forward = forward


class NoPickle(FlattenExtractor):
    def __deepcopy__(self, memo):
        return FlattenExtractor(self._observation_space)

    def __reduce__(self):
        raise TypeError("this one stays here")


# What users do to a policy that has been built


def fill(name, values):
    def change(policy):
        getattr(policy.features_extractor, name).copy_(th.as_tensor(values))

    return change


def new_number(policy):
    policy.features_extractor.factor = -2.0


def hook(policy):
    policy.action_net.register_forward_hook(lambda module, args, output: 2 * output)


def pre_hook(policy):
    policy.mlp_extractor.policy_net[0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))


def double(module, x):
    return 2 * type(module).forward(module, x)


def method_of_its_own(policy):
    policy.action_net.forward = partial(double, policy.action_net)


def renew_optimizer(policy):
    policy.optimizer = NIGT(policy.parameters(), lr=ALPHA, eta=ETA)


def new_activation(policy):
    policy.mlp_extractor.policy_net[1] = nn.ReLU()


def new_head(policy):
    policy.action_net = nn.Sequential(nn.Linear(4, 2), nn.Tanh())
    renew_optimizer(policy)


def no_bias(policy):
    policy.action_net = nn.Linear(4, 2, bias=False)
    renew_optimizer(policy)


def two_linear_layers_in_a_row(policy):
    policy.mlp_extractor.policy_net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 4))
    renew_optimizer(policy)


def tied_layers(policy):
    layer = nn.Linear(2, 2)
    policy.mlp_extractor.policy_net = nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh())
    policy.action_net = nn.Linear(2, 2)
    renew_optimizer(policy)


def new_extractor(policy):
    """The trunk behind it takes as many features as before."""
    policy.features_extractor = Encoded(policy.observation_space, n_outputs=2)
    renew_optimizer(policy)


def new_extractor_of_the_actor(policy):
    policy.pi_features_extractor = Encoded(policy.observation_space, n_outputs=2)
    renew_optimizer(policy)


def local_class(policy):
    class Local(FlattenExtractor):
        function = staticmethod(lambda x: x + 3)

        def forward(self, x):
            return self.function(super().forward(x))

    policy.features_extractor = Local(policy.observation_space)


def freeze(policy):
    policy.mlp_extractor.policy_net[0].requires_grad_(False)


MIXED = {"features_extractor_class": Mixed}
CHANGES = {
    "integer buffer": (fill("order", [1, 0]), MIXED),
    "float64 buffer": (fill("scale", [LARGE + 0.5, LARGE + 3.0]), MIXED),
    "tensor attribute": (fill("shift", [0.7, -0.7]), MIXED),
    "number": (new_number, MIXED),
    "hook": (hook, {}),
    "pre-hook": (pre_hook, {}),
    "method": (method_of_its_own, {}),
    "activation": (new_activation, {}),
    "layer": (new_head, {}),
    "layer without bias": (no_bias, {}),
    "two linear layers in a row": (two_linear_layers_in_a_row, {}),
    "tied layers": (tied_layers, {}),
    "features extractor": (new_extractor, {}),
    "features extractor of the actor": (new_extractor_of_the_actor, {}),
    "local class": (local_class, {}),
    "frozen layer": (freeze, {}),
}
HARMLESS = {  # what changes nothing but the way in which the policy is evaluated
    "hook": lambda policy: policy.action_net.register_forward_hook(lambda module, args, output: None),
    "method": lambda policy: setattr(policy.action_net, "forward", partial(nn.Linear.forward, policy.action_net)),
    "layer of a subclass": lambda policy: setattr(policy.action_net, "__class__", type("Mine", (nn.Linear,), {})),
}
NOT_TO_BE_COPIED = {
    "lock": (Lockable, r"policy=ActorPolicy: .*copying it failed with TypeError: .*lock.*Keep .* out of the policy's modules"),
    "shared": (Shared, r"policy=ActorPolicy: a copy of it shares memory with it \(.*encoder\.weight.*__deepcopy__"),
    "closure": (Closure, r"the function Closure\.__init__\.<locals>\.forward in it refers to .*encoder\b.*functools\.partial"),
}
ALGORITHMS = {
    **{algorithm.__name__: algorithm for algorithm in (RennalaNIGT, MaleniaNIGT, RennalaPG, SyncNIGT, SyncPG)},
    "AFedPG": AFedPG,
}


class Look(BaseCallback):
    """Keeps what each round has sampled and summed, and where θ was; the workers' copies must leave θ alone."""

    def _init_callback(self):
        self.thetas, self.rounds, self.gradients = [], [], []

    def _on_training_start(self):
        keep_outputs(self.model.workers, "gradient", self.gradients)

    def _on_rollout_start(self):
        self.thetas.append(flatten(self.model.policy))

    def _on_rollout_end(self):
        np.testing.assert_array_equal(flatten(self.model.policy), self.thetas[-1])
        self.rounds.append((self.model.accepted, self.model.last_round.weights))

    def _on_step(self):
        return True


def check_rounds(model, look):
    """What the workers sampled, and the sum of its scores, are what the live policy gives at the same point."""
    policy, theta = model.policy, flatten(model.policy)
    head = make_head(policy)
    for (pairs, weights), gradient in zip(look.rounds, look.gradients, strict=True):
        trajectories = [trajectory for _, trajectory in pairs]
        load_flat(policy, trajectories[0].point.parameters)
        for trajectory in trajectories:
            noise = head.noise(trajectory_seeds(model.root_seed, trajectory.key).actions, trajectory.n_steps)
            samples, _ = head.draw(TorchNetwork(policy)(trajectory.policy_observations), noise)
            np.testing.assert_allclose(trajectory.samples, samples, rtol=1e-4, atol=1e-4)
        scored = coefficients(trajectories, [weights[arrival.worker] for arrival, _ in pairs], GAMMA)
        expected = policy_gradient(policy, trajectories, scored)
        assert float(expected.norm()) > 1e-3
        th.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    load_flat(policy, theta)


def check_points(look):
    """θ̃_t = θ_t + ((1 - η)/η)(θ_t - θ_{t-1}), and ‖θ_t - θ_{t-1}‖ = α; the first round of ``look`` is the first of all."""
    points = [pairs[0][1].point.parameters for pairs, _ in look.rounds]
    np.testing.assert_array_equal(points[0], look.thetas[0])
    for t in range(1, len(points)):
        moved = look.thetas[t] - look.thetas[t - 1]
        assert np.linalg.norm(moved) == pytest.approx(ALPHA, rel=1e-4)
        np.testing.assert_allclose(points[t], look.thetas[t] + (1 - ETA) / ETA * moved, atol=1e-5)


def memory(policy):
    return {tensor.data_ptr() for tensor in (*policy.parameters(), *policy.buffers())}


class PolicyCopyTests:
    """
    What the workers' copy of the policy must be.

    :cvar vec_env_cls: called with functions that make environments
    :cvar pickles: the copies travel to other processes
    """

    vec_env_cls = None
    pickles = False

    @pytest.fixture(scope="class")
    @classmethod
    def env(cls):
        env = cls.vec_env_cls([LengthFromSeedEnv] * 2)
        yield env
        env.close()

    def make(self, env, algorithm=RennalaNIGT, **policy_kwargs):
        """A model whose outputs depend on its observations."""
        kwargs = {} if algorithm is AFedPG else {"n_trajectories": 4}
        policy_kwargs = {"net_arch": [4], **policy_kwargs}
        model = algorithm(
            "MlpPolicy",
            env,
            learning_rate=ALPHA,
            horizon=HORIZON,
            seed=1,
            device="cpu",
            policy_kwargs=policy_kwargs,
            gamma=GAMMA,
            **kwargs,
        )
        generator = th.Generator().manual_seed(0)
        with th.no_grad():
            for p in model.policy.parameters():
                p.add_(0.5 * th.randn(p.shape, generator=generator))
        return model

    def rounds(self, model, n_rounds=2):
        look = Look()
        run_rounds(model, n_rounds, look)
        del model.workers.gradient  # the method is back
        return look

    # What is done to a policy takes effect

    @pytest.mark.parametrize("name", CHANGES)
    def test_workers_have_the_policy_as_it_is(self, env, name):
        """From the start, and after a change between two calls of ``learn``."""
        change, policy_kwargs = CHANGES[name]
        model = self.make(env, **policy_kwargs)
        observation = np.array([[0.3, -0.6]], np.float32)
        look = self.rounds(model)
        check_rounds(model, look)
        check_points(look)
        before = TorchNetwork(model.policy)(observation)
        change(model.policy)
        if name != "frozen layer":
            assert np.abs(TorchNetwork(model.policy)(observation) - before).max() > 0.01
        check_rounds(model, self.rounds(model))
        assert not memory(model.policy) & memory(model.workers._replica.policy)

    def test_a_module_given_in_the_arguments_is_no_part_of_the_workers(self, env):
        encoder = nn.Linear(2, 3)
        model = self.make(env, features_extractor_class=Encoded, features_extractor_kwargs={"encoder": encoder})
        assert model.policy.features_extractor.encoder is encoder
        look = self.rounds(model, 4)
        check_rounds(model, look)
        check_points(look)
        assert encoder.weight.data_ptr() not in memory(model.workers._replica.policy)

    def test_two_parameter_groups(self, env):
        model = self.make(env, optimizer_class=TwoGroups)
        look = self.rounds(model, 4)
        check_rounds(model, look)
        check_points(look)

    def test_looking_at_a_policy_does_not_change_it(self, env):
        """What the last forward pass has left, and generators of spaces: the workers go on with the copy that they have."""
        model = self.make(env)
        self.rounds(model)
        prepared = model.workers.rollout_spec
        model.predict(np.zeros((2, 2), np.float32))
        distribution = model.policy.get_distribution(th.zeros((1, 2)))  # not without gradient
        assert distribution.sample().requires_grad
        model.action_space.sample()
        model.observation_space.sample()
        check_rounds(model, self.rounds(model))
        assert model.workers.rollout_spec is prepared
        hook(model.policy)
        distribution.sample()
        check_rounds(model, self.rounds(model))
        assert model.workers.rollout_spec is not prepared

    def test_hooks_of_parameters_are_not_called(self, env):
        model = self.make(env)
        model.policy.action_net.weight.register_hook(lambda gradient: 0 * gradient)
        with pytest.warns(UserWarning, match=r"hooks of action_net\.weight are not called"):
            run_rounds(model, 1)

    # What is frozen stays

    @pytest.mark.parametrize("name", ALGORITHMS)
    def test_a_frozen_layer_stays(self, env, name):
        model = self.make(env, ALGORITHMS[name])
        freeze(model.policy)
        frozen = [p.detach().clone() for p in model.policy.mlp_extractor.parameters()]
        others = [p.detach().clone() for p in model.policy.action_net.parameters()]
        run_rounds(model, 3)
        assert all(th.equal(p, q) for p, q in zip(model.policy.mlp_extractor.parameters(), frozen, strict=True))
        assert not any(th.equal(p, q) for p, q in zip(model.policy.action_net.parameters(), others, strict=True))

    def test_weight_decay_does_not_move_what_is_frozen(self, env):
        arguments = {"optimizer_class": NoGradientForFrozen, "optimizer_kwargs": {"weight_decay": 0.1}}
        model = self.make(env, features_extractor_class=Frozen, **arguments)
        before = parameters(model)
        look = self.rounds(model)
        check_rounds(model, look)
        moved = parameters(model) != before
        sizes = [(p.numel(), p.requires_grad) for p in model.policy.parameters()]
        np.testing.assert_array_equal(moved, np.concatenate([np.full(*size) for size in sizes]))

    # What no optimizer holds

    def test_a_replaced_extractor_moves_with_a_new_optimizer(self, env):
        model = self.make(env)
        new_extractor(model.policy)
        before = model.policy.features_extractor.encoder.weight.detach().clone()
        run_rounds(model, 2)
        assert not th.equal(model.policy.features_extractor.encoder.weight, before)

    def test_a_replaced_extractor_is_named_if_the_optimizer_is_the_old_one(self, env):
        model = self.make(env)
        model.policy.features_extractor = Encoded(model.observation_space, n_outputs=2)
        before = model.policy.features_extractor.encoder.weight.detach().clone()
        with pytest.warns(UserWarning, match=r"optimizer does not hold .*features_extractor\.encoder\.weight.*new optimizer"):
            run_rounds(model, 2)
        assert th.equal(model.policy.features_extractor.encoder.weight, before)

    # What cannot be copied

    @pytest.mark.parametrize("name", NOT_TO_BE_COPIED)
    def test_what_cannot_be_copied_is_refused_before_training(self, env, name):
        extractor, says = NOT_TO_BE_COPIED[name]
        model = self.make(env, features_extractor_class=extractor)
        with pytest.raises(ValueError, match=says):
            model.learn(10)
        assert (model.num_timesteps, model._n_updates) == (0, 0)
        run_rounds(self.make(env), 1)  # the workers are as good as before

    def test_what_cannot_be_pickled(self, env):
        model = self.make(env, features_extractor_class=NoPickle)
        if not self.pickles:
            run_rounds(model, 1)
            return
        model.policy.features_extractor.__class__.__deepcopy__, usual = lambda self, memo: self, NoPickle.__deepcopy__
        try:
            with pytest.raises(ValueError, match=r"policy=ActorPolicy: .*pickled.*TypeError: this one stays here\. Keep "):
                model.learn(10)
        finally:
            NoPickle.__deepcopy__ = usual
        assert (model.num_timesteps, model._n_updates) == (0, 0)
        run_rounds(self.make(env), 1)

    # The NumPy path

    @pytest.mark.parametrize("name", HARMLESS)
    def test_a_changed_policy_loses_the_numpy_path_and_nothing_else(self, env, name):
        results = []
        for change in (lambda policy: None, HARMLESS[name]):
            model = self.make(env)
            change(model.policy)
            look = self.rounds(model, 3)
            results.append((has_numpy_network(model.workers._replica.policy), parameters(model), look))
        (in_numpy, expected, usual), (still_in_numpy, found, look) = results
        assert (in_numpy, still_in_numpy) == (True, False)
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
        assert [a.key for a, _ in usual.rounds[-1][0]] == [a.key for a, _ in look.rounds[-1][0]] or self.pickles
