"""Expected gradients with a critic, by listing every trajectory of the tabular MDP: nothing is sampled."""

import numpy as np
import pytest
import torch as th
from toy_mdp import FEATURES, N_ACTIONS, N_STATES, START, P, R, all_paths, expected_return

from sb3_nigt.estimators.advantages import following_values, gae
from sb3_nigt.estimators.standardize import standardize
from sb3_nigt.moments import Moments

HORIZON = 4
TERMINAL = N_STATES
PARAMETERS = th.tensor([0.4, -0.7, 0.3, 0.9, -0.2, 0.5], dtype=th.float64)
BASELINE = np.array([1.7, -2.3, 0.0])  # some function of the state, far from the true value; not read at the terminal state


def action_probs(parameters):
    """Linear in the features, so that the states share parameters."""
    weight, bias = parameters[:4].view(2, N_ACTIONS), parameters[4:]
    return (th.as_tensor(FEATURES[:N_STATES]).double() @ weight + bias).softmax(dim=1)


PROBS = action_probs(PARAMETERS).numpy()
SCORES = th.autograd.functional.jacobian(lambda p: action_probs(p).log(), PARAMETERS).numpy()  # (state, action, parameter)


def gradient_of(function):
    """Gradient by the parameters of a function of the action probabilities."""
    return th.autograd.functional.jacobian(lambda p: function(action_probs(p)), PARAMETERS).numpy()


def true_values(gamma):
    """V of the MDP without horizon: V = r_π + γ P_π V."""
    transition = np.einsum("sa,sat->st", PROBS, P)
    reward = np.einsum("sa,sat,sat->s", PROBS, P, R)
    return np.append(np.linalg.solve(np.eye(N_STATES) - gamma * transition[:, :N_STATES], reward), 0.0)


def exact_gradient(gamma, final, step_weight):
    """
    Σ_t w^t Σ_s d_t(s) Σ_a ∇π(a|s) Q_t(s, a), with d_t the distribution of s_t and V_H(s) = final(s).

    w = γ is the gradient of E[Σ_{h<H} γ^h r_h + γ^H V_H(s_H)]; w = 1 is what a discount from the step gives.
    """
    values, qs = np.append(final[:N_STATES], 0.0), []
    for _ in range(HORIZON):
        qs.insert(0, (P * (R + gamma * values)).sum(axis=2))
        values = np.append((PROBS * qs[0]).sum(axis=1), 0.0)
    visits, total = START, np.zeros(len(PARAMETERS))
    for t, q in enumerate(qs):
        total += step_weight**t * np.einsum("s,sa,sa,sap->p", visits, PROBS, q, SCORES)  # ∇π = π ∇ log π
        visits = np.einsum("s,sa,sat->t", visits, PROBS, P)[:N_STATES]
    return total


def advantages_of(path, values, gamma, lam, horizon_terminates, rewards=None):
    states, length = list(path.states), len(path.actions)
    ended = np.arange(length) == length - 1
    terminated = ended & (horizon_terminates or path.terminated)
    following = following_values(values[states[:-1]], values[states[-1:]], ended)
    rewards = np.array(path.rewards) if rewards is None else rewards
    return gae(rewards, values[states[:-1]], following, terminated, ended, gamma, lam)


def expected_gradient(coefficients):
    """Σ over paths of their probability times Σ_t C_t ∇ log π(a_t | s_t)."""
    return sum(
        path.probability(PROBS) * (coefficients(path) @ SCORES[list(path.states[:-1]), list(path.actions)])
        for path in all_paths(HORIZON)
    )


def powers(base, path):
    return base ** np.arange(len(path.actions))


@pytest.mark.parametrize("gamma", [0.5, 0.9, 1.0])
def test_reference_is_the_gradient_of_the_return(gamma):
    by_autograd = gradient_of(lambda probs: expected_return(probs, gamma, HORIZON))
    np.testing.assert_allclose(exact_gradient(gamma, np.zeros(3), step_weight=gamma), by_autograd, rtol=1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_with_the_true_value_the_expectation_is_exact(gamma, lam):
    """Paths that reach the horizon are truncated and bootstrap there, so E[A_t | s_t, a_t] is Q - V for every λ."""
    values = true_values(gamma)
    expected = expected_gradient(lambda path: advantages_of(path, values, gamma, lam, horizon_terminates=False))
    np.testing.assert_allclose(expected, exact_gradient(gamma, values, step_weight=1.0), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_with_the_true_value_and_gamma_to_the_t_it_is_the_gradient_of_j(lam):
    """γ^t A_t: the gradient of E[Σ_{h<H} γ^h r_h + γ^H V(s_H)], V held fixed, by autograd through backward induction."""
    gamma = 0.9
    values = true_values(gamma)

    def objective(probs):
        transition, reward, value = (th.as_tensor(x) for x in (P, R, values))
        for _ in range(HORIZON):
            q = (transition * (reward + gamma * value)).sum(dim=-1)
            value = th.cat([(probs * q).sum(dim=-1), value[-1:]])
        return (th.as_tensor(START) * value[:-1]).sum()

    def coefficients(path):
        return powers(gamma, path) * advantages_of(path, values, gamma, lam, horizon_terminates=False)

    np.testing.assert_allclose(expected_gradient(coefficients), gradient_of(objective), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("gamma", [0.5, 0.9, 1.0])
def test_with_lambda_1_and_complete_episodes_any_critic_is_unbiased(gamma):
    """The horizon terminates the episode here. With γ = 1 it is the gradient of the return."""
    expected = expected_gradient(lambda path: advantages_of(path, BASELINE, gamma, 1.0, horizon_terminates=True))
    np.testing.assert_allclose(expected, exact_gradient(gamma, np.zeros(3), step_weight=1.0), rtol=1e-11, atol=1e-13)
    if gamma == 1.0:
        by_autograd = gradient_of(lambda probs: expected_return(probs, 1.0, HORIZON))
        np.testing.assert_allclose(expected, by_autograd, rtol=1e-11, atol=1e-13)


def test_with_a_wrong_critic_lambda_below_1_and_bootstrapping_are_biased():
    """Why λ = 1 and complete episodes are conditions, and that these tests can fail."""
    exact = exact_gradient(0.9, np.zeros(3), step_weight=1.0)
    for lam, horizon_terminates in ((0.7, True), (1.0, False)):
        biased = expected_gradient(lambda path, a=lam, b=horizon_terminates: advantages_of(path, BASELINE, 0.9, a, b))
        assert np.linalg.norm(biased - exact) > 0.01 * np.linalg.norm(exact)


def test_end_of_an_episode_inside_a_segment():
    """
    A segment of two complete episodes: its expected gradient is twice that of one.

    All pairs of paths, each pair with the product of their probabilities.
    """
    paths, total = [path for path in all_paths(HORIZON) if len(path.actions) <= 2], np.zeros(len(PARAMETERS))
    one = np.zeros(len(PARAMETERS))
    for first in paths:
        alone = advantages_of(first, BASELINE, 0.9, 1.0, horizon_terminates=True)
        one += first.probability(PROBS) * (alone @ SCORES[list(first.states[:-1]), list(first.actions)])
        for second in paths:
            states = [*first.states[:-1], *second.states[:-1]]
            actions, rewards = [*first.actions, *second.actions], np.array([*first.rewards, *second.rewards])
            ended = np.zeros(len(actions), bool)
            ended[[len(first.actions) - 1, -1]] = True
            following = following_values(BASELINE[states], np.full(2, np.nan), ended)
            advantages = gae(rewards, BASELINE[states], following, ended, ended, 0.9, 1.0)
            total += first.probability(PROBS) * second.probability(PROBS) * (advantages @ SCORES[states, actions])
    share = sum(path.probability(PROBS) for path in paths)  # the other paths are longer and left out
    np.testing.assert_allclose(total, 2 * share * one, rtol=1e-12, atol=1e-14)


TASK_REWARDS = (lambda r: r, lambda r: 3 - 2 * r)  # the second task pays otherwise


def mean_over_tasks(coefficients):
    """(1/K) Σ_k of the expected gradients, as Malenia weighs them."""
    return sum(expected_gradient(lambda path, k=k: coefficients(path, k)) for k in range(2)) / 2


def raw_advantages(path, task):
    rewards = TASK_REWARDS[task](np.array(path.rewards))
    return advantages_of(path, BASELINE, 0.9, 1.0, True, rewards)


def test_any_baseline_of_state_and_task_leaves_the_expectation_unchanged():
    baseline = np.array([[5.0, -1.0], [0.3, 8.0]])  # by task and state
    without = mean_over_tasks(
        lambda path, task: advantages_of(path, np.zeros(3), 0.9, 1.0, True, TASK_REWARDS[task](np.array(path.rewards)))
    )
    as_critic = mean_over_tasks(
        lambda path, k: advantages_of(
            path, np.append(baseline[k], 0.0), 0.9, 1.0, True, TASK_REWARDS[k](np.array(path.rewards))
        )
    )
    subtracted = mean_over_tasks(lambda path, task: raw_advantages(path, task) - baseline[task][list(path.states[:-1])])
    np.testing.assert_allclose(as_critic, without, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(subtracted, without, rtol=1e-11, atol=1e-13)
    of_action = mean_over_tasks(lambda path, task: raw_advantages(path, task) - np.array(path.actions))
    assert np.linalg.norm(of_action - without) > 0.01 * np.linalg.norm(without)  # a baseline must not depend on the action


def test_standardising_with_fixed_moments_scales_the_expectation():
    """The mean of a task is a baseline of the task, and there is one σ for all tasks."""
    moments = Moments(np.array([0.5, 0.5]), np.array([1.2, -4.0]), np.array([3.0, 1.0]))  # σ = 2
    exact = mean_over_tasks(raw_advantages)
    scaled = mean_over_tasks(lambda path, k: standardize(raw_advantages(path, k), np.full(len(path.actions), k), moments))
    np.testing.assert_allclose(scaled, exact / 2, rtol=1e-11, atol=1e-13)
