"""The optimisation loop: schedule, loss, best on validation, divergence, and bit-identical continuation."""

import math
import warnings
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sessionwise.errors import Stopped, UsageError
from sessionwise.io.files import read_json, write_json
from sessionwise.io.tensors import read_tensors, write_tensors
from sessionwise.model.ndt import NDT, NDTConfig
from sessionwise.model.streams import stream
from sessionwise.runs.checkpoints import checkpoint_step, latest_checkpoint
from sessionwise.runs.worker import Reporter
from sessionwise.scoring.evaluate import EvaluationSettings, Scorer
from sessionwise.training.batches import Batch, Batches
from sessionwise.training.loop import Training, TrainSettings, batch_loss, total_steps, train, validation_steps

# Counts without structure and a start at the null model: validation is best early, so the best so far matters later.
TOY = NDTConfig(token_width=6, width=8, feedforward=12, heads=2, blocks=1, dropout=0.2, decoder_start="null")
SILENT = Reporter(lambda event: None)
SETTINGS = TrainSettings(epochs=5, lr=1e-2, validations=7)


@dataclass(frozen=True)
class Toy:
    """A session of 40 training and 8 validation trials."""

    id: str = "a"

    @property
    def split(self):
        return SimpleNamespace(train=np.arange(40))

    def take(self, part, rows):
        return self.counts(part)[rows]

    def counts(self, part):
        rng = np.random.default_rng(5)
        counts = rng.poisson(0.6, (48, 9, 5)).astype(np.uint8)
        return counts[:40] if part == "train" else counts[40:]


def training(seed=3, settings=SETTINGS, config=TOY):
    toy = Toy()
    model = NDT(config, 9, seed)
    model.add_session("a", 5, torch.full((5,), 0.6))
    return Training(model, list(model.parameters()), Batches([toy], 16, seed), settings, seed)


def validator():
    scorer = Scorer("a", Toy().counts("validation"), np.arange(40, 48), 48, EvaluationSettings(tail=3))
    return lambda model: [scorer.forward_prediction(model)]


def fingerprint(state, trained):
    """Everything that a training leaves behind, bit for bit."""
    weights = [p.detach().numpy().tobytes() for p in state.model.parameters()]
    stored = state.optimiser.state_dict()["state"]
    slots = {(i, name): value.numpy().tobytes() for i, slot in stored.items() for name, value in slot.items()}
    gains = [gain.tobytes() for gain in trained.history.gain]
    crossfit = [(trained.crossfit.step, trained.crossfit.bps)]
    outcome = [trained.best_step, trained.best_bps, trained.steps, trained.tokens, trained.history.loss]
    return weights, slots, gains, crossfit, outcome


@pytest.fixture(scope="module")
def uninterrupted():
    state = training()
    return fingerprint(state, train(state, validator(), SILENT))


class Killed(Exception):
    pass


def stopped_at(step, work):
    """Train with a checkpoint every step until ``step``, then vanish."""
    state = training()

    def kill(model):
        return validator()(model)

    advance = state.advance

    def advance_or_die():
        if state.step == step:
            raise Killed
        return advance()

    state.advance = advance_or_die
    with pytest.raises(Killed):
        train(state, kill, SILENT, work, checkpoint_steps=1)


@pytest.mark.parametrize("step", [1, 3, 6, 14])  # 3 steps an epoch, 15 in all; validations at 3, 5, 7, 9, 11, 13, 15
def test_stop_and_resume_gives_the_same_bytes(tmp_path, uninterrupted, step):
    stopped_at(step, tmp_path)
    state = training()
    assert fingerprint(state, train(state, validator(), SILENT, tmp_path)) == uninterrupted


def edit_json(change):
    def mutate(folder):
        about = read_json(folder / "state.json")
        change(about)
        write_json(folder / "state.json", about)

    return mutate


def edit_tensors(change):
    def mutate(folder):
        tensors = read_tensors(folder / "state.safetensors")
        change(tensors)
        write_tensors(folder / "state.safetensors", tensors)

    return mutate


def forget_slots(tensors):
    for name in [name for name in tensors if name.startswith("optimiser.")]:
        tensors[name] = np.zeros_like(tensors[name])


def fresh_schedule(about):
    about["schedule"] = training().schedule.state_dict()


def reset_rng(name):
    def change(tensors):
        tensors[f"rng.{name}"] = stream(3, name).get_state().numpy()

    return change


MUTATIONS = {
    "optimiser": edit_tensors(forget_slots),
    "scheduler": edit_json(fresh_schedule),
    "learning rate and momentum": edit_json(lambda about: about.update(groups=[{"lr": 1e-2, "betas": [0.9, 0.999]}])),
    "mask stream": edit_tensors(reset_rng("masks")),
    "dropout stream": edit_tensors(reset_rng("dropout")),
    "data order": edit_json(lambda about: about.update(batches={"epoch": 0, "position": 0})),
    "best so far": edit_json(lambda about: about.update(best_bps=None, best_step=-1)),
    "cross-fit": edit_json(lambda about: about.update(crossfit_bps=[9.0, 9.0])),
    "step": edit_json(lambda about: about.update(step=about["step"] - 1)),
    "history": edit_tensors(lambda tensors: tensors.update({"history.gain": tensors["history.gain"] * 0})),
}


@pytest.mark.parametrize("part", MUTATIONS)
def test_each_part_of_the_state_is_needed(tmp_path, uninterrupted, part, monkeypatch):
    """Leave one part out of the checkpoint and the bytes differ: the test above can fail (reliability P8)."""
    stopped_at(11, tmp_path)
    folder = sorted(tmp_path.glob("step-*"))[-1]
    MUTATIONS[part](folder)
    monkeypatch.setattr("sessionwise.training.loop.latest_checkpoint", lambda work: folder)  # its hashes are stale now
    state = training()
    assert fingerprint(state, train(state, validator(), SILENT, tmp_path)) != uninterrupted


def test_when_checkpoints_are_written_changes_nothing(tmp_path, uninterrupted):
    state = training()
    trained = train(state, validator(), SILENT, tmp_path, checkpoint_steps=2)
    assert fingerprint(state, trained) == uninterrupted


def test_one_cycle_has_the_four_constants():
    """Protocol A9: from lr/10 to lr at 15 %, down by cosine to lr/10/1e4; beta1 from 0.95 to 0.85 and back."""
    state = training(settings=TrainSettings(steps=100, lr=1e-2))
    seen = []
    for _ in range(100):
        group = state.optimiser.param_groups[0]
        seen.append((group["lr"], group["betas"][0]))
        assert state.advance() is None
    rates, momenta = zip(*seen, strict=True)
    assert rates[0] == pytest.approx(1e-3) and rates[14] == pytest.approx(1e-2) == max(rates)
    assert rates[-1] == pytest.approx(1e-3 / 1e4)
    half = 14 + (99 - 14) // 2
    share = (1 + math.cos(math.pi * (half - 14) / (99 - 14))) / 2
    assert rates[half] == pytest.approx(1e-7 + share * (1e-2 - 1e-7))
    assert (momenta[0], min(momenta), momenta[-1]) == pytest.approx((0.95, 0.85, 0.95))


@pytest.mark.parametrize("objective", ["masked_causal", "next_step"])
def test_loss_is_the_poisson_likelihood_of_the_masked_entries(objective):
    model = training(config=TOY.model_copy(update={"objective": objective})).model
    counts, masked = torch.from_numpy(Toy().counts("validation")), torch.rand(8, 9) < 0.4
    batch = Batch("a", counts, masked)
    hidden = masked if objective == "masked_causal" else torch.zeros_like(masked)
    rates = model(counts, hidden, "a").exp()
    entry = -torch.distributions.Poisson(rates).log_prob(counts.float()) - torch.lgamma(counts + 1.0)
    entry = entry[masked] if objective == "masked_causal" else entry
    for how, expected in (("mean", entry.mean()), ("sum", entry.sum())):
        found = batch_loss(model, batch, TrainSettings(loss=how), None)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_gradient_is_clipped_to_norm_1(monkeypatch):
    state = training(settings=TrainSettings(steps=20, loss="sum"))
    norms = []
    step = state.optimiser.step

    def look(*args):
        norms.append(torch.cat([p.grad.flatten() for p in state.parameters if p.grad is not None]).norm())
        return step()

    monkeypatch.setattr(state.optimiser, "step", look)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch notices the wrapped step
        state.advance()
    assert float(norms[0]) == pytest.approx(1.0, abs=1e-4)


def test_best_on_validation_is_kept_and_last_on_request():
    """Validation scores are made up, so the best step is known."""
    for keep, wanted in (("best", 5), ("last", 15)):
        state, kept = training(settings=SETTINGS.model_copy(update={"keep": keep})), {}
        real = validator()

        def fake(model, state=state, kept=kept, real=real):
            (evaluation,) = real(model)
            kept[state.step] = model.core.scheme.detach().clone()
            factor = 1.0 if state.step == 5 else -1.0
            evaluation.gain[:] = factor * 10
            return [evaluation]

        trained = train(state, fake, SILENT)
        assert trained.best_step == wanted
        assert torch.equal(state.model.core.scheme, kept[wanted])
        assert not torch.equal(kept[5], kept[15])


@pytest.mark.parametrize("where", ["loss", "gradient", "validation"])
def test_not_finite_is_an_outcome_with_a_reason(where):
    """P7: never a number, never the best checkpoint."""
    state = training()
    validate = validator()
    if where == "loss":
        state.model.stitchers_of("a").decode.bias.data[0] = math.nan
    if where == "gradient":
        state.model.core.scheme.register_hook(lambda grad: grad * math.inf)
    if where == "validation":

        def validate(model, real=validator()):
            (evaluation,) = real(model)
            evaluation.gain[0] = math.nan
            return [evaluation]

    trained = train(state, validate, SILENT)
    assert trained.reason and ("nan" in trained.reason or "inf" in trained.reason)
    assert trained.best_step == -1 and trained.best_bps == -math.inf


def test_steps_epochs_and_validation_steps():
    assert total_steps(TrainSettings(epochs=5), 3) == 15 and total_steps(TrainSettings(steps=40), 3) == 40
    with pytest.raises(UsageError, match="gives 6 steps"):
        total_steps(TrainSettings(epochs=2), 3)
    assert sorted(validation_steps(15, 4)) == [4, 8, 12, 15] and validation_steps(10, 1) == {10}
    assert len(validation_steps(3, 25)) == 3


def test_asked_to_stop_it_saves_and_repeats_no_step(tmp_path, uninterrupted):
    """P2: the checkpoint is that of the last step done; the same call goes on to the same bytes."""
    state, asked = training(), [False]

    def events(event):
        asked[0] = event["step"] >= 4

    with pytest.raises(Stopped):
        train(state, validator(), Reporter(events, lambda: asked[0]), tmp_path)
    assert checkpoint_step(latest_checkpoint(tmp_path)) == state.step < 15
    again = training()
    assert fingerprint(again, train(again, validator(), SILENT, tmp_path)) == uninterrupted
