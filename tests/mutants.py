# ruff: noqa: E501  (one breakage, one line)
"""One-line breakages that the tests must notice: python tests/mutants.py [words of their names].

Each is made in a copy of the source, against which its tests then run. A breakage that leaves them green has survived:
the tests would not have seen that bug. Exits with 1 if any survives. JOBS=n runs n at a time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutant(NamedTuple):
    """A breakage: `old`, which stands once in src/limbeck/`file`, becomes `new`; one of `tests` must turn red."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


LOSSES = ("test_losses_logit.py", "test_losses_regression.py", "test_losses.py")
DECOUPLED = ("test_losses_decoupled.py", "test_losses.py")
BATCHWISE = ("test_losses_batchwise.py", "test_losses.py")
PROCESSES = ("test_losses_processes.py",)
RELATION = ("test_losses_relation.py", "test_losses.py")
MEMORY = ("test_losses_memory.py",)
UNCERTAIN = ("test_losses_gaussian.py", "test_losses_multilabel.py", "test_losses_ordinal.py")
FEATURE = ("test_losses_feature.py",)
JOINT = ("test_losses_joint.py",)
TRANSFER = ("test_losses_transfer.py",)
OBJECTIVE = ("test_objective.py",)
TAPS = ("test_taps.py",)
TEACHERS = ("test_teachers.py",)
STACKING = ("test_stacking.py",)
TRAIN = ("test_train.py",)
MUTUAL = ("test_mutual.py",)
EVALUATE = ("test_evaluate.py",)
AUGMENT = ("test_augment.py",)
DATA = ("test_data_core.py",)
RUNTIME = ("test_runtime.py",)
REPORT = ("test_report_teaching.py",)
METHODS = ("test_report_methods.py",)
SMALLER = ("test_report_compressed.py", "test_report_front.py")
SEVERAL = ("test_multilabel.py",)
WEIGHTS = ("test_class_weights.py",)
UNLABELLED = ("test_unlabelled.py",)
STARTUP = ("test_startup.py",)
NEWROWS = ("test_data_tables.py",)
STORE = ("test_store.py",)
QUANTIZE = ("test_quantize.py",)
CACHE = ("test_cache.py",)
TUNE = ("test_tune.py",)
SHRINK = ("test_shrink.py",)
REGRESSION = ("test_regression.py",)
TOKENS = ("test_tokens.py",)
PAIRED = ("test_evaluate_paired.py",)
SERVING = ("test_serving.py",)
ELSEWHERE = ("test_export_elsewhere.py",)
LAYERS = ("test_export_layers.py",)
PRUNE = ("test_compress_prune.py",)
FACTORISE = ("test_compress_factorise.py",)
SPARSIFY = ("test_compress_sparsify.py",)
KERAS = ("test_keras.py",)
KERAS_FILES = ("test_keras_files.py",)
STORED = ("test_foreign_stored.py",)
TABLES = ("test_foreign_tables.py",)
DOCTOR = ("test_doctor.py",)
CHECKUP = ("test_checkup.py",)

MUTANTS = [
    # losses
    Mutant("kd: KL flipped", "losses/logit.py", "rows = kl(log_t, log_s)", "rows = kl(log_s, log_t)", LOSSES),
    Mutant("kd: temperature not squared", "losses/logit.py", "return mean(temperature**2 * rows, target)\n\n\ndef soft_cross", "return mean(temperature * rows, target)\n\n\ndef soft_cross", LOSSES),
    Mutant("kd: no factor for the temperature", "losses/logit.py", "return mean(temperature**2 * rows, target)\n\n\ndef soft_cross", "return mean(rows, target)\n\n\ndef soft_cross", LOSSES),
    Mutant("kd: mean over classes", "losses/divergences.py", "masked_fill(p == 0, 0).sum(dim=-1)", "masked_fill(p == 0, 0).mean(dim=-1)", LOSSES),
    Mutant("kd: teacher not softened", "losses/logit.py", "log_s, log_t = softened(student, temperature), softened(teacher, temperature)", "log_s, log_t = softened(student, temperature), softened(teacher, 1.0)", LOSSES),
    Mutant("kd: student not softened", "losses/logit.py", "log_s, log_t = softened(student, temperature), softened(teacher, temperature)", "log_s, log_t = softened(student, 1.0), softened(teacher, temperature)", LOSSES),
    Mutant("kd: cross-entropy sold as KL", "losses/divergences.py", "p * (log_p - log_q)", "p * -log_q", LOSSES),
    Mutant("kd: student and teacher swapped", "losses/logit.py", "student, teacher = taught(student, teacher)\n    log_s, log_t", "teacher, student = taught(student, teacher)\n    log_s, log_t", LOSSES),
    Mutant("kd: NaN hidden", "losses/divergences.py", "masked_fill(p == 0, 0)", "masked_fill(~(p > 0), 0)", LOSSES),
    Mutant("js: shares of the mixture exchanged", "losses/divergences.py", "math.log(beta), log_q + math.log1p(-beta)", "math.log1p(-beta), log_q + math.log(beta)", LOSSES),
    Mutant("soft_cross_entropy: no factor for the temperature", "losses/logit.py", "-(temperature**2) * (p_t", "-(p_t", LOSSES),
    Mutant("lskd: C in the variance", "losses/logit.py", "math.sqrt(logits.shape[-1] - 1)", "math.sqrt(logits.shape[-1])", LOSSES),
    Mutant("wsld: weight the other way round", "losses/logit.py", "-h_s / (h_t + 1e-7)", "-h_t / (h_s + 1e-7)", LOSSES),
    Mutant("wsld: gradient through the weight", "losses/logit.py", "with torch.no_grad():", "with torch.enable_grad():", LOSSES),
    Mutant("tf_kd: probabilities do not sum to 1", "losses/logit.py", "(1 - probability) / max(student.shape[-1] - 1, 1)", "(1 - probability) / student.shape[-1]", LOSSES),
    Mutant("ctkd: gradient not reversed", "losses/logit.py", "(learned.detach() - learned)", "(learned - learned.detach())", LOSSES),
    Mutant("ctkd: reversed at once", "losses/logit.py", "(1 - math.cos(math.pi * passed)) / 2", "1.0", LOSSES),
    Mutant("dkd: weights exchanged", "losses/decoupled.py", "alpha * first + beta * second", "beta * first + alpha * second", DECOUPLED),
    Mutant("dkd: second part sees the label", "losses/decoupled.py", "log_softmax(log_p.masked_fill(label, -torch.inf), dim=-1)", "log_softmax(log_p, dim=-1)", DECOUPLED),
    Mutant("nkd: teacher's probability forgotten", "losses/decoupled.py", "log_t.exp() * log_s * label", "log_s * label", DECOUPLED),
    Mutant("dist: cosine for correlation", "losses/batchwise.py", "    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)\n", "", BATCHWISE),
    Mutant("dist: over classes twice", "losses/batchwise.py", "_correlation(p_s.T, p_t.T)", "_correlation(p_s, p_t)", BATCHWISE),
    Mutant("mlld: the sure rows kept", "losses/batchwise.py", "x <= x.sort()", "x >= x.sort()", BATCHWISE),
    Mutant("dist: rows of this process alone", "losses/batchwise.py", "return everywhere(student), everywhere(teacher)", "return student, teacher", PROCESSES),
    Mutant("sp: rows not scaled", "losses/relation.py", "unit(student @ student.T) - unit(teacher @ teacher.T)", "student @ student.T - teacher @ teacher.T", RELATION),
    Mutant("pkt: divergence flipped", "losses/relation.py", "p_t * ((p_t + 1e-7) / (p_s + 1e-7)).log()", "p_s * ((p_s + 1e-7) / (p_t + 1e-7)).log()", RELATION),
    Mutant("cc: pairs of a row with itself", "losses/relation.py", ".square().sum() - apart.square().sum()", ".square().sum()", RELATION),
    Mutant("rkd_distance: not in units of the mean", "losses/relation.py", "apart / torch.where(average > 0, average, 1)", "apart", RELATION),
    Mutant("rkd_distance: mean over all pairs", "losses/relation.py", "(apart > 0).sum().clamp(min=1)", "max(apart.numel(), 1)", RELATION),
    Mutant("rkd_angle: directions not scaled", "losses/relation.py", "directions = unit(x[None] - vertices[:, None])", "directions = x[None] - vertices[:, None]", RELATION),
    Mutant("relations: dead rows blow up", "losses/relation.py", "torch.where(zero, 1, square).sqrt()).masked_fill(zero, 0)", "square.sqrt().clamp(min=1e-12))", RELATION),
    Mutant("relations: rows of this process alone", "losses/relation.py", "return everywhere(student.flatten(1)), everywhere(teacher.flatten(1))", "return student.flatten(1), teacher.flatten(1)", PROCESSES),
    Mutant("ickd: mean over all pairs of channels", "losses/relation.py", "apart.square().sum(dim=2).mean(dim=1)", "apart.square().mean(dim=2).mean(dim=1)", RELATION),
    Mutant("everywhere: gradients not summed", "losses/inputs.py", "        torch.distributed.all_reduce(gradient)\n", "", PROCESSES),
    Mutant("crd: negatives of the same class", "losses/memory.py", "torch.where(draw >= first[:, None], draw + (end - first)[:, None], draw)", "draw", MEMORY),
    Mutant("crd: banks exchanged", "losses/memory.py", "((v_s, self.bank_teacher), (v_t, self.bank_student))", "((v_s, self.bank_student), (v_t, self.bank_teacher))", MEMORY),
    Mutant("crd: Z of every batch", "losses/memory.py", "torch.where(self.log_z.isnan(), found, self.log_z)", "found", MEMORY),
    Mutant("crd: classes not saved", "losses/memory.py", "torch.full((rows,), UNSEEN))", "torch.full((rows,), UNSEEN), persistent=False)", MEMORY),
    Mutant("crd: memory of this process's rows alone", "losses/memory.py", "found = everywhere(torch.cat([v_s, v_t, torch.stack(sums, dim=1)], dim=1).detach())", "found = torch.cat([v_s, v_t, torch.stack(sums, dim=1)], dim=1).detach()", PROCESSES),
    Mutant("attentive_imitation: pushed away from a bad teacher", "losses/regression.py", "1 - error / reach).clamp(min=0)", "1 - error / reach)", LOSSES),
    Mutant("attentive_imitation: forgets earlier batches", "losses/regression.py", "torch.cat([self.greatest[None], seen]).max()", "seen.max()", LOSSES),
    Mutant("label_quantile: the other quantile", "losses/regression.py", "torch.maximum(quantile * missing, (quantile - 1) * missing)", "torch.maximum((1 - quantile) * missing, -quantile * missing)", LOSSES),
    Mutant("gaussian_kl: variances exchanged", "losses/gaussian.py", "surer = log_t - log_s", "surer = log_s - log_t", UNCERTAIN),
    Mutant("label_gaussian_nll: deviation for variance", "losses/gaussian.py", "rows = (LOG_TWO_PI + logs +", "rows = (LOG_TWO_PI + 2 * logs +", UNCERTAIN),
    Mutant("binary_kd: the no forgotten", "losses/multilabel.py", "F.logsigmoid(-logits)]", "0 * logits]", UNCERTAIN),
    Mutant("label_binary: mean over classes", "losses/multilabel.py", "return mean(rows.sum(dim=-1), target)", "return mean(rows.mean(dim=-1), target)", UNCERTAIN),
    Mutant("ordinal_kd: complement forgotten", "losses/ordinal.py", "torch.stack([up_to, beyond], dim=-1)", "torch.stack([up_to, up_to], dim=-1)", UNCERTAIN),
    Mutant("label_emd: classes not in order", "losses/ordinal.py", "class_shares(target, student)).cumsum(dim=-1)", "class_shares(target, student))", UNCERTAIN),
    Mutant("at: maps not scaled", "losses/feature.py", "F.normalize(feature.square().mean(dim=1).flatten(1), dim=1)", "feature.square().mean(dim=1).flatten(1)", FEATURE),
    Mutant("nst: cross term counted once", "losses/feature.py", "- 2 * _alike", "- _alike", FEATURE),
    Mutant("cwd: over channels, not pixels", "losses/feature.py", "torch.log_softmax(teacher.flatten(2) / self.temperature, dim=2)", "torch.log_softmax(teacher.flatten(2) / self.temperature, dim=1)", FEATURE),
    Mutant("mgd: kept and masked exchanged", "losses/feature.py", ">= self.masked)", "< self.masked)", FEATURE),
    Mutant("vid: variance not trained", "losses/feature.py", "F.softplus(self.log_scale)", "F.softplus(self.log_scale.detach())", FEATURE),
    Mutant("tokens: last patch left out, not the class token", "losses/projectors.py", "feature[:, first:]", "feature[:, : side**2]", FEATURE),
    Mutant("projectors: batch norm of a single value", "losses/projectors.py", "x.shape[0] * x.shape[2] * x.shape[3] < 2", "False", FEATURE),
    Mutant("ofd: margin forgotten", "losses/joint.py", "torch.maximum(theirs, margin(theirs))", "theirs + 0 * margin(theirs)", JOINT),
    Mutant("ofd: margin of the last batch alone", "losses/joint.py", "self.seen += count", "self.seen.copy_(count)", JOINT),
    Mutant("ofd: earlier stages count whole", "losses/joint.py", "part / 2**earlier", "part", JOINT),
    Mutant("reviewkd: shares exchanged", "losses/joint.py", "ours * share[:, :1] + deeper * share[:, 1:]", "ours * share[:, 1:] + deeper * share[:, :1]", JOINT),
    Mutant("reviewkd: sizes weigh alike", "losses/joint.py", "weight /= 2", "weight /= 1", JOINT),
    Mutant("fsp: sum over pixels", "losses/joint.py", "one.transpose(1, 2) / one.shape[2]", "one.transpose(1, 2)", JOINT),
    Mutant("srrl: classifier not copied", "losses/transfer.py", "head.weight.detach().clone().float()", "head.weight.detach()", TRANSFER),
    Mutant("srrl: classifier's part forgotten", "losses/transfer.py", "self.beta * F.linear", "0 * F.linear", TRANSFER),
    Mutant("simkd: last ReLU forgotten", "losses/transfer.py", "normed(narrow, wanted), nn.ReLU()", "normed(narrow, wanted)", TRANSFER),
    Mutant("losses: teacher not detached", "losses/inputs.py", "(teacher.detach() if teacher.requires_grad else teacher).to(student.dtype)\n\n\ndef measured", "teacher.to(student.dtype)\n\n\ndef measured", LOSSES),
    Mutant("losses: ignored rows counted", "losses/inputs.py", "counted = (target != IGNORED)", "counted = (target == target)", LOSSES),
    Mutant("losses: ignored rows related", "losses/inputs.py", "chosen = target != IGNORED", "chosen = target == target", BATCHWISE),
    Mutant("losses: autocast reaches products", "losses/precision.py", "enabled=False", "enabled=True", BATCHWISE),
    Mutant("hard: smoothing forgotten", "losses/logit.py", ", label_smoothing=label_smoothing", "", LOSSES),
    Mutant("mse: sum over outputs", "losses/regression.py", "(student - teacher).square().mean(", "(student - teacher).square().sum(", LOSSES),
    Mutant("label_mse: absolute error", "losses/regression.py", "(student - target).square().mean(", "(student - target).abs().mean(", LOSSES),
    Mutant("label_smooth_l1: beta forgotten", "losses/regression.py", ", beta=beta)", ")", LOSSES),
    Mutant("teacher_bounded: bound reversed", "losses/regression.py", "margin > of_teacher", "margin < of_teacher", LOSSES),
    Mutant("teacher_bounded: margin's sign", "losses/regression.py", "of_student + margin >", "of_student - margin >", LOSSES),
    Mutant("teacher_bounded: tie counted", "losses/regression.py", "margin > of_teacher", "margin >= of_teacher", LOSSES),
    Mutant("teacher_bounded: NaN hidden", "losses/regression.py", "of_student, done)", "of_student, 0)", LOSSES),
    Mutant("losses: half precision kept", "losses/inputs.py", "else student.float()", "else student", LOSSES),
    Mutant("losses: empty batch is NaN", "losses/inputs.py", "max(rows.numel(), 1)", "rows.numel()", LOSSES),
    Mutant("losses: shapes may broadcast", "losses/inputs.py", "if student.shape != target.shape:", "if False:", LOSSES),
    # objective
    Mutant("objective: weights ignored", "objective/terms.py", "torch.add(total, value, alpha=weight)", "total + value", OBJECTIVE),
    Mutant("objective: values weighted", "objective/terms.py", "                values[term.name] = _value(term, taught, indexed, seen, teacher, rows)\n            elif", "                values[term.name] = 3 * _value(term, taught, indexed, seen, teacher, rows)\n            elif", OBJECTIVE),
    Mutant("objective: student and teacher swapped", "objective/terms.py", "else loss(of_student, of_teacher, batch.y)", "else loss(of_teacher, of_student, batch.y)", OBJECTIVE),
    Mutant("objective: teacher's tap ignored", "objective/terms.py", "_select(teacher, term.teacher,", "_select(teacher, PREDICTION,", OBJECTIVE),
    Mutant("objective: watched terms learn", "objective/terms.py", "with torch.no_grad():", "with torch.enable_grad():", OBJECTIVE),
    Mutant("objective: autocast reaches the losses", "objective/terms.py", "enabled=False", "enabled=True", OBJECTIVE),
    Mutant("objective: schedules stand still", "objective/terms.py", "weight.at(self._epoch, self.epochs)", "weight.at(0.0, self.epochs)", OBJECTIVE),
    Mutant("objective: options stand still", "objective/terms.py", "ramp.at(epoch, self.epochs)", "ramp.at(0.0, self.epochs)", OBJECTIVE),
    Mutant("balance: upside down", "objective/balance.py", "(logs[0] - logs[1:]).exp()", "(logs[1:] - logs[0]).exp()", OBJECTIVE),
    Mutant("balance: at the first layer", "objective/balance.py", "range(len(self._parameters) - 1, -1, -1)", "range(len(self._parameters))", OBJECTIVE),
    Mutant("balance: never frozen", "objective/terms.py", "self._looks < BALANCE_STEPS and", "bool(self.balanced) and", OBJECTIVE),
    Mutant("balance: not restored", "objective/terms.py", "module._recall())", "None)", OBJECTIVE),
    Mutant("pairing: always the first stages", "pairing.py", "math.ceil((n + 1) * len(many) / len(few)) - 1", "n", ("test_pairing.py",)),
    Mutant("pairing: a squeeze counts as a stage", "pairing.py", "for call in reversed(maps):", "for call in maps:", ("test_pairing.py",)),
    Mutant("pairing: what is overwritten is offered", "pairing.py", "c.output._version == c.version", "True", ("test_pairing.py",)),
    Mutant("fitting: the seed forgotten", "fitting.py", "torch.manual_seed(seed)", "torch.manual_seed(0)", ("test_fitting.py",)),
    Mutant("objective: losses not registered", "objective/terms.py", "if isinstance(term.loss, nn.Module)}", "if term.loss is None}", OBJECTIVE),
    # taps
    Mutant("taps: hooks stay", "taps.py", "handle.remove()", "handle.id", TAPS),
    Mutant("taps: the last call wins", "taps.py", "if len(calls) > 1:", "calls = calls[-1:]\n    if len(calls) > 1:", TAPS),
    Mutant("taps: features kept after a call", "taps.py", "record.open = False\n            record.seen.clear()", "record.open = False", TAPS),
    Mutant("taps: overwritten feature passes", "taps.py", "output._version != version", "output._version < version", TAPS),
    # augmentation
    Mutant("augment: the same numbers in every view", "augment/draws.py", "(seed, view, DRAWS.index(name))", "(seed, 0, DRAWS.index(name))", AUGMENT),
    Mutant("augment: numbers of the place in the batch", "augment/draws.py", "z = index * ", "z = torch.arange(len(index)) * ", AUGMENT),
    Mutant("augment: not rounded to 8 bits", "augment/views.py", "part.mul_(255).round_()", "part.mul_(255)", AUGMENT),
    Mutant("augment: partners of another view", "augment/views.py", "views(partner, view)", "views(partner, view + 1)", AUGMENT),
    Mutant("augment: parameters of the first part for all", "augment/images.py", "*(torch.split(each, step) for", "*([torch.split(each, step)[0]] * len(torch.split(each, step)) for", AUGMENT),
    Mutant("augment: what it is given is overwritten", "augment/images.py", "(part.clone(memory_format=torch.contiguous_format) for part in torch.split(x, step))", "iter(torch.split(x, step))", AUGMENT),
    # teachers
    Mutant("teacher: thawed", "teachers/frozen.py", "copy.deepcopy(model).eval()", "copy.deepcopy(model).train()", TEACHERS),
    Mutant("teacher: not a copy", "teachers/frozen.py", "copy.deepcopy(model)", "model", TEACHERS),
    Mutant("teacher: gradients on", "teachers/frozen.py", "@torch.no_grad()\n", "", TRAIN + TEACHERS),
    Mutant("teacher: probabilities taken for logits", "teachers/frozen.py", "if self.probabilities:", "if False:", TEACHERS),
    Mutant("ensemble: average of logits", "teachers/joining.py", "log_shares(predictions).logsumexp(dim=0) - math.log(len(predictions))", "predictions.mean(dim=0)", TEACHERS),
    Mutant("ensemble: constants of members seen", "teachers/joining.py", "(logits - logits.mean(dim=-1, keepdim=True))", "predictions", TEACHERS),
    Mutant("ensemble: a class ruled out is infinite", "teachers/joining.py", "torch.where(logs == -torch.inf, math.log(torch.finfo(logs.dtype).tiny), logs)", "logs", TEACHERS),
    Mutant("ensemble: RMSE for MSE", "teachers/joining.py", "(least / s) ** 2", "(least / s)", TEACHERS),
    Mutant("ensemble: confidence of the batch", "teachers/joining.py", "entr(logs.exp()).sum(dim=-1)", "entr(logs.exp()).sum(dim=-1).mean(dim=1, keepdim=True)", TEACHERS),
    Mutant("stack: on rows it was fitted on", "teachers/stacking.py", "rows[~out], target[~out]", "rows, target", STACKING),
    Mutant("stack: nothing holds it back", "teachers/stacking.py", "penalty * torch.stack(apart).sum()", "0 * penalty * torch.stack(apart).sum()", STACKING),
    Mutant("joint: statistics not in the file", "teachers/stacking.py", "persistent=True", "persistent=False", STACKING),
    Mutant("disagreement: divergence reversed", "evaluate/scores.py", "sum(1).mean() - entropies", "sum(1).mean() * 0 + entropies", EVALUATE),
    # the loop
    Mutant("train: student in eval mode", "train/loop.py", "learner.forward.train()", "learner.forward.eval()", TRAIN),
    Mutant("train: the same order every epoch", "train/loop.py", 'derive_seed(self.seed, "order", epoch)', 'derive_seed(self.seed, "order", 0)', TRAIN),
    Mutant("train: the same view every epoch", "train/loop.py", "if self.views else lap", "if self.views else 0", TRAIN),
    Mutant("train: views without end", "train/loop.py", "lap % self.views if self.views else lap", "lap", TRAIN),
    Mutant("train: dropout not seeded", "train/loop.py", 'seed_everything(self.seed, "epoch", epoch, self.accelerator.process_index)', "torch.seed()", TRAIN),
    Mutant("train: parts of a batch not weighted", "train/loop.py", "fraction * share", "share", TRAIN),
    Mutant("train: losses of parts not weighted", "train/loop.py", "v.detach() * fraction", "v.detach()", TRAIN),
    Mutant("train: optimizer not resumed", "train/learner.py", 'self.optimizer.load_state_dict(state["optimizer"])', "pass", TRAIN),
    Mutant("train: average not resumed", "train/learner.py", 'self.ema.load_state_dict(state["ema"])', "pass", TRAIN),
    Mutant("train: losses' weights not resumed", "train/learner.py", 'self.losses.load_state_dict(state["objective"])', "pass", TRAIN),
    Mutant("train: last weights sold as best", "train/learner.py", 'load_weights(self.inner, self.folder / "best.safetensors")', 'load_weights(self.inner, self.folder / "last.safetensors")', TRAIN),
    Mutant("train: NaN goes on", "train/tally.py", "if not len(bad):", "if True:", TRAIN),
    Mutant("train: NaN told at another step", "train/tally.py", "len(self._rows) - len(totals) + int(bad[0])", "int(bad[0])", TRAIN),
    Mutant("train: losses not weighted by rows", "train/tally.py", "(table * rows[:, None])", "(table * rows.mean())", TRAIN),
    Mutant("train: gradients not clipped", "train/learner.py", "        if self.plan.clip_norm:", "        if False:", TRAIN),
    Mutant("train: cosine at half speed", "train/schedule.py", "math.cos(math.pi * since / span)", "math.cos(math.pi * since / span / 2)", TRAIN),
    Mutant("train: chosen on the test split", "train/learner.py", "self.shown, data, data.val,", "self.shown, data, data.test,", TRAIN),
    # peers
    Mutant("mutual: a peer learns from itself", "train/loop.py", "enumerate(told) if place != n]", "enumerate(told)]", MUTUAL),
    Mutant("mutual: others not taken as constants", "train/loop.py", "Output(output.prediction.detach(),", "Output(output.prediction,", MUTUAL),
    Mutant("mutual: sum over the other peers", "train/loop.py", "for values in losses]).mean() for name", "for values in losses]).sum() for name", MUTUAL),
    Mutant("mutual: stops with the first out of patience", "train/loop.py", "if all(learner.out_of_patience", "if any(learner.out_of_patience", MUTUAL),
    Mutant("mutual: loss scale forgotten", "train/loop.py", 'self.accelerator.scaler.load_state_dict(state["scaler"])', "pass", MUTUAL),
    Mutant("train: scaled gradients clipped", "train/learner.py", "scaler.unscale_(self.optimizer)", "pass", MUTUAL),
    Mutant("mutual: another peer named for the NaN", "train/loop.py", "min(bad, key=lambda one: one[0])", "bad[0]", MUTUAL),
    Mutant("mutual: first peer resumed for all", "train/loop.py", "learner.restore(own)", 'learner.restore(state["networks"][0])', MUTUAL),
    # what is made of it
    Mutant("compare: errors taken for scores", "verdict.py", "sign = 1.0 if higher_is_better else -1.0", "sign = 1.0", EVALUATE),
    Mutant("compare: seeds not paired", "verdict.py", "for s, d in zip(student, distilled, strict=True)", "for s, d in zip(sorted(student), sorted(distilled), strict=True)", EVALUATE),
    Mutant("interval: normal, not Student", "verdict.py", "float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))", "1.96", EVALUATE),
    Mutant("p-value: one side only", "verdict.py", "return 2 * float(stdtr", "return float(stdtr", EVALUATE),
    Mutant("holm: every p-value multiplied alike", "verdict.py", "(len(p_values) - rank) * p_values[i]", "len(p_values) * p_values[i]", EVALUATE),
    Mutant("holm: smaller than one before it", "verdict.py", "least = max(least, min(", "least = max(0.0, min(", EVALUATE),
    Mutant("predict: in training mode", "evaluate/scores.py", "        model.eval()", "        model.train()", EVALUATE),
    Mutant("batches: rows lost", "data/core.py", "range(0, len(rows), size)", "range(0, len(rows) - size + 1, size)", DATA),
    Mutant("batches: row numbers of the batch, not the data", "data/core.py", "rows.to(device), view)", "torch.arange(len(rows)).to(device), view)", DATA),
    Mutant("scaling: the logarithm is not undone", "data/core.py", "return own.maximum(low).minimum(high).exp()", "return own.maximum(low).minimum(high)", REGRESSION),
    Mutant("metrics: outputs compared in mixed units", "evaluate/scores.py", "(learned[0] - learned[1]).square()", "(prediction - target).square()", REGRESSION),
    Mutant("cards: inputs one place off", "export/card.py", "range(place, place + len(column.inputs))", "range(place + 1, place + 1 + len(column.inputs))", REGRESSION),
    Mutant("page: residuals of the true value", "report/values.py", "p / t if logs else p - t", "p / t if logs else t - p", REGRESSION),
    Mutant("metrics: padding counts", "evaluate/scores.py", "return values[target.to(values.device) != IGNORED]", "return values[target.to(values.device) != IGNORED - 1]", TOKENS),
    Mutant("training: parts weighted by rows, not tokens", "train/loop.py", "int((piece.y != IGNORED).sum())) for piece, _ in pieces", "len(piece.index)) for piece, _ in pieces", TOKENS),
    Mutant("training: batches weighted by rows, not tokens", "data/core.py", ".sum()) if data.per_token else len(rows)", ".sum()) if not data else len(rows)", TOKENS),
    Mutant("scaling: measured on all rows", "data/core.py", "chunks = torch.split(rows, step)", "chunks = torch.split(torch.arange(len(x)), step)", DATA),
    Mutant("files: written in place", "runtime.py", "        write(part)\n", "        write(path)\n        write(part)\n", RUNTIME),
    # the report
    Mutant("report: seeds of a generation not told apart from another's", "report/roles.py", 'f"generation {number[1]}") if number', '"generation") if number', REPORT),
    Mutant("report: size of a store counted at every opening", "report/stored.py", "for key in keys)", 'for key in (o["key"] for o in group))', REPORT),
    Mutant("report: intervals of the ensemble's students forgotten", "report/scores.py", "reach or (mean, mean), name", "(mean, mean), name", REPORT),
    Mutant("report: verdicts of methods not corrected", "report/methods.py", "adjusted = holm([p_value(entry[\"gain\"][\"values\"]) for entry in entries])", "adjusted = [p_value(entry[\"gain\"][\"values\"]) for entry in entries]", METHODS),
    Mutant("report: methods in the order of the recipe", "report/methods.py", "sorted(found, key=lambda method: -method.mean)", "found", METHODS),
    Mutant("report: compared students among the curves", "report/figures.py", "if name not in left_out}", "}", METHODS),
    Mutant("report: options of a loss that are 0 not told", "report/words.py", "and value is not None:", "and value:", METHODS),
    Mutant("report: every comparison on an axis of its own", "report/__init__.py", "figures.gains(other, ends)", "figures.gains(other)", REPORT),
    Mutant("report: int8 praised where it is slower", "report/files.py", "if by > NOISE]", "if by < -NOISE]", SMALLER),
    Mutant("report: a front with points that others beat", "report/pareto.py", "(point.score - best[-1].score) > 0:", "(point.score - best[-1].score) >= 0:", SMALLER),
    Mutant("report: recovery alone shown with the teacher's score", "report/smaller.py", 'alone = _level(metric, taught["student"])', 'alone = _level(metric, taught["distilled"])', SMALLER),
    Mutant("report: trials outside the budget before those within", "report/budget.py", "key=lambda t: (not t[\"within\"], t[\"value\"])", "key=lambda t: t[\"size_kb\"]", SMALLER),
    Mutant("report: shares of another runtime's float file", "report/files.py", "else plain.get(m[\"format\"]))", "else next(iter(plain.values()), None))", SMALLER),
    # smaller students in a run
    Mutant("shrink: what recovers alone asks the teacher", "shrink.py", 'walk(job, chain, start, None, "compressed-alone")', 'walk(job, chain, start, teacher, "compressed-alone")', SHRINK),
    Mutant("shrink: zeros are let go before training", "shrink.py", "    zeros = compress.keep_zeros(network, edits)\n", "    zeros = compress.keep_zeros(network, edits)\n    zeros.remove()\n", SHRINK),
    Mutant("shrink: every round takes the whole ratio", "shrink.py", "ratio=1 - (1 - then) / (1 - done)", "ratio=share", SHRINK),
    Mutant("paired: the drop that is allowed is not", "evaluate/paired.py", "_exceeds(lost - allowed, seed)", "_exceeds(lost, seed)", PAIRED),
    Mutant("paired: the smaller and the larger model swapped", "evaluate/paired.py", "lost = right[0] - right[1]", "lost = right[1] - right[0]", PAIRED),
    Mutant("stages: what was done for another key is kept", "stages.py", '(renew or nothing)', 'nothing', SHRINK),
    # several labels, rare classes, rows without a label
    Mutant("labels: probability of the logits' mean", "teachers/joining.py", "_log_odds(log_answers(predictions).logsumexp(dim=1))", "predictions.mean(dim=0)", SEVERAL),
    Mutant("labels: ties are ranked", "evaluate/labels.py", "scores[order].diff() != 0", "scores[order].diff() != -1", SEVERAL),
    Mutant("labels: yes to everything taken for probabilities", "models/softmax.py", " and (rows < 0.5).any())", ")", SEVERAL),
    Mutant("labels: rare sets are not stratified", "data/several.py", "found[few] = -1 - rarest[few]", "found[few] = -1", SEVERAL),
    Mutant("class weights: of all rows, not of those learned from", "data/weights.py", "class_counts(data, data.train)", "class_counts(data, torch.arange(len(data.y)))", WEIGHTS),
    Mutant("class weights: given ones not scaled", "data/weights.py", "given * rows / given.dot(counts)", "given", WEIGHTS),
    Mutant("class weights: the student alone without", "objectives.py", "own_options(term, plan, job.data.task.weights)", "own_options(term, plan)", WEIGHTS),
    Mutant("balanced accuracy: judged by rows", "evaluate/paired.py", 'if main_metric(task)[0] in ("balanced_accuracy", "map"):', 'if main_metric(task)[0] == "map":', WEIGHTS),
    Mutant("unlabelled: few labels in a batch count in full", "objective/terms.py", "len(kept.index) / (len(rows) * self.share)", "1.0", UNLABELLED),
    Mutant("unlabelled: tested rows are learned from", "data/raw.py", "digest not in seen", "True", UNLABELLED),
    Mutant("unlabelled: the student alone has fewer steps", "data/core.py", "return torch.cat(laps)[:wanted]", "return torch.cat(laps)[:count]", UNLABELLED),
    Mutant("unlabelled: partners of the other kind", "augment/views.py", "torch.where(torch.isin(index.to(rows.device), unlabelled), theirs, partner)", "partner", UNLABELLED),
    # the search
    Mutant("tune: a search that goes on draws other trials", "tune/search.py", "TPESampler(seed=derive_seed(\"tune\", number) % 2**32)", "TPESampler()", TUNE),
    Mutant("tune: an interrupted trial is left behind", "tune/search.py", "if trial.state == TrialState.RUNNING]", "if trial.state == TrialState.PRUNED]", TUNE),
    Mutant("tune: terms of labels are lost", "tune/space.py", "return {**labels, candidate.term", "return {candidate.term", TUNE),
    Mutant("tune: the largest error is the best", "tune/__init__.py", "ranked(trials, higher=setting.higher)", "ranked(trials, higher=True)", TUNE),
    Mutant("tune: a full disk counts as a failed trial", "tune/__init__.py", "except DivergedError as error:", "except UserError as error:", TUNE),
    # compress
    Mutant("compress: layer norms lose their order", "compress/groups.py", "kept = sorted(set(range(shape[dim])) - set(idxs))", "kept = list(set(range(shape[dim])) - set(idxs))", PRUNE),
    Mutant("compress: the caller's network pruned", "compress/prune.py", "    own = copy.deepcopy(model)\n    network, shape", "    own = model\n    network, shape", PRUNE),
    Mutant("compress: the most important channels go", "compress/prune.py", "scores[n].argsort(stable=True)[:gone]", "scores[n].argsort(stable=True)[-gone:]", PRUNE),
    Mutant("compress: batches cancel in taylor", "compress/prune.py", "_by_unit(group, _change, reading=True).square()", "_by_unit(group, _change, reading=True)", PRUNE),
    Mutant("compress: heads not whole", "compress/groups.py", "width = attention.head_dim\n", "width = 1\n", PRUNE),
    Mutant("compress: number of heads forgotten", "compress/groups.py", "module.num_heads = module.proj.in_features // module.head_dim", "pass", PRUNE),
    Mutant("compress: torch's heads cut unevenly", "compress/groups.py", "return int(module.num_heads)", "return 1", PRUNE),
    Mutant("compress: cap forgotten", "compress/prune.py", "allowed = math.ceil(round((1 - cap) * count, 6) / group.step) * group.step", "allowed = 0", PRUNE),
    Mutant("compress: timm's widths forgotten", "compress/prune.py", "        correct(network, before, shapes(network, edit[\"shape\"]))\n", "", PRUNE),
    Mutant("compress: spatial factors both vertical", "compress/lowrank.py", '"padding": _axis(layer.padding, 1)', '"padding": _axis(layer.padding, 0)', FACTORISE),
    Mutant("compress: bias twice", "compress/lowrank.py", "_conv(first, None, layer, **same), _conv(second, layer.bias, layer))", "_conv(first, layer.bias[: len(first)] if layer.bias is not None else None, layer, **same), _conv(second, layer.bias, layer))", FACTORISE),
    Mutant("compress: energy of values, not squares", "compress/lowrank.py", "values.square().cumsum(0) / values.square().sum()", "values.cumsum(0) / values.sum()", FACTORISE),
    Mutant("compress: one sweep of Tucker on the wrong side", "compress/lowrank.py", '"oihw,or->irhw", weight, u_out', '"oihw,or->irhw", weight, u_out * 0 + 1', FACTORISE),
    Mutant("compress: factors that save nothing", "compress/factorise.py", "return fewer and _macs([*factors], x) < _macs([own], x)", "return fewer", FACTORISE),
    Mutant("compress: time not asked", "compress/factorise.py", "return faster is None or faster(", "return True or faster(", FACTORISE),
    Mutant("compress: fused transformer path taken", "compress/factorise.py", "modules[parent].activation_relu_or_gelu = 0", "pass", FACTORISE),
    Mutant("compress: zeros learn", "compress/sparsify.py", "gradient.masked_fill(~mask.to(gradient.device), 0)", "gradient", SPARSIFY),
    Mutant("compress: fours along the outputs", "compress/sparsify.py", "last = weight.movedim(1, -1)", "last = weight.movedim(0, -1)", SPARSIFY),
    # the doctor
    Mutant("doctor: an order judged by its own rows", "doctor/alignment.py", "torch.where(self.half, self.second[truth], self.first[truth])", "torch.where(self.half, self.first[truth], self.second[truth])", DOCTOR),
    Mutant("doctor: whatever is better is believed", "doctor/inputs.py", "if best - own >= MARGIN and best >= _needed(data, rows, given) and chance < SURE:", "if best - own >= MARGIN:", DOCTOR),
    Mutant("doctor: any sure teacher ends in two softmaxes", "doctor/outputs.py", "twice = bool((shares >= -1e-3).all()) and", "twice =", DOCTOR),
    Mutant("doctor: answers in other company compared with other rows'", "doctor/steadiness.py", "batch_size=24)[order.argsort()]", "batch_size=24)", DOCTOR),
    Mutant("doctor: a run does not look at what is brought along", "teach.py", "None if spec.train else spec)", "None)", CHECKUP),
    Mutant("forecast: one student whatever the seeds", "forecast.py", "one.count * one.plan.epochs * epoch", "one.plan.epochs * epoch", CHECKUP),
    # the command line
    Mutant("start-up: every installed package searched", "cli/__init__.py", 'os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")', "pass", STARTUP),
    Mutant("start-up: help reads recipes", "cli/__init__.py", "import gc\nimport os\n", "import gc\nimport os\nimport limbeck.recipe\n", STARTUP),
    Mutant("start-up: a page waits for torch", "report/__init__.py", "from limbeck.verdict import interval", "from limbeck.evaluate import interval", STARTUP),
    Mutant("start-up: a prediction waits for torch", "predicting.py", "from limbeck.sources.tables import", "from limbeck.data import", STARTUP),
    Mutant("tables: the mark before a text is part of a column's name", "sources/tables.py", 'encoding="utf-8-sig"', 'encoding="utf-8"', NEWROWS),
    Mutant("tables: the rows' own names taken for a column", "sources/tables.py", "skipped = max(0, len(first or ()) - len(names))", "skipped = 0", NEWROWS),
    Mutant("tables: a block of rows ends the table", "sources/tables.py", "if len(rows) < BLOCK:", "if rows:", NEWROWS),
    # export
    Mutant("export: a graph stays while its weights are replaced", "export/places.py", "zip(reversed(source), reversed(target), strict=True)", "zip(source, target, strict=True)", ELSEWHERE),
    Mutant("export: bytes are cut off, not rounded", "export/interface.py", "np.rint(rows * 255)", "(rows * 255)", ELSEWHERE),
    Mutant("export: the reason is that of the last error", "export/chatter.py", "while error.__cause__ is not None:", "while False:", ELSEWHERE),
    Mutant("export: memory with the runtime in it", "export/serving.py", "else peak - empty", "else peak", SERVING),
    Mutant("export: a dead runtime is asked for ever", "export/serving.py", "return (told, np.frombuffer(content, dtype).reshape(shape)) if len(content) == size else None", "return told, np.frombuffer(content, dtype).reshape(shape)", SERVING),
    Mutant("export: what is folded away counts as wrong", "export/layers.py", "right[node] = same or any(", "right[node] = same and any(", LAYERS),
    Mutant("export: the last wrong layer is named", "export/layers.py", "(node for node in graph.graph.nodes if", "(node for node in reversed(graph.graph.nodes) if", LAYERS),
    # quantize
    Mutant("quantize: calibration rows not balanced", "quantize/rows.py", "turn[own] = np.arange(len(own))", "turn[own] = 0", QUANTIZE),
    Mutant("quantize: NaN rows measured", "quantize/rows.py", "if rows.dtype.kind == \"f\" and not np.isfinite(rows).all():", "if False:", QUANTIZE),
    Mutant("quantize: noise of the input blamed on the layer", "quantize/errors.py", "added = max(out - before,", "added = max(out,", QUANTIZE),
    Mutant("quantize: more layers left in float than needed", "quantize/making.py", "while enough - too_few > 1:", "while enough - too_few > 2:", QUANTIZE),
    Mutant("quantize: unsigned zero points off by one", "quantize/onnx.py", "zero.astype(np.int16) + 128", "zero.astype(np.int16) + 127", QUANTIZE),
    # Keras
    Mutant("keras: always in evaluation mode", "models/keras.py", "given: Tensor = self._graph.model(x, training=self.training)", "given: Tensor = self._graph.model(x, training=False)", KERAS),
    Mutant("keras: statistics of batch norm are forgotten", "models/keras.py", "                    if name in owner._buffers:\n", "                    if False:\n", KERAS),
    Mutant("keras: the softmax stays away from the model", "models/keras.py", "            self._closing.activation = before\n", "            pass\n", KERAS),
    Mutant("keras: first weights follow no seed", "models/backend.py", "        random.seed(int(torch.randint(2**62, ())))\n", "        random.seed()\n", KERAS),
    Mutant("keras: a twin's pool is not padded", "models/twins.py", 'layers.MaxPooling2D(2, strides=1, padding="same"', 'layers.MaxPooling2D(2, strides=1, padding="valid"', KERAS),
    Mutant("keras: code in a file is not looked for", "models/archive.py", "    _refuse_code(config, path)\n", "", KERAS_FILES),
    Mutant("keras: blue for red in a file", "export/keras.py", "rows = keras.ops.flip(rows, axis=-1) if model.bgr else rows", "rows = rows", KERAS_FILES),
    Mutant("keras: a file has the first weights", "models/keras.py", "                variable.assign(getattr(owner, name).detach().cpu())\n", "                pass\n", KERAS_FILES),
    # models from elsewhere
    Mutant("stored: a prediction is that of the row in its place", "foreign/stored.py", "values[rows if place is None else place[rows]]", "values[rows]", STORED),
    Mutant("stored: a part of a source is counted from its start", "data/raw.py", "own=raw.keys.own[rows]", "own=raw.keys.own[: len(rows)]", STORED),
    Mutant("stored: keys that no row has are passed over", "foreign/stored.py", "[key for key in number if key not in known]", "[]", STORED),
    Mutant("fitted: folds are answered for by who has seen them", "foreign/fitted.py", "_answers(fit(rest), _some", "_answers(model, _some", TABLES),
    Mutant("tabular: trees grown after the best round count", "foreign/tabular.py", "int(best) + 1 if best is not None else 0", "0", TABLES),
    Mutant("tabular: words begin at another input", "foreign/tabular.py", "rows[:, start : start + len(column.categories)]", "rows[:, : len(column.categories)]", TABLES),
    Mutant("function: another one that answers otherwise is taken for it", "foreign/function.py", 'fingerprint("function", fingerprint_tensors({"answers": seen}))', 'fingerprint("function")', STORED),
]  # fmt: skip


def try_mutant(mutant: Mutant | None, tests: tuple[str, ...]) -> int:
    """Pytest's exit code for `tests` against a copy of the package with the breakage, or without any."""
    with tempfile.TemporaryDirectory(prefix="limbeck-mutant-") as folder:
        package = Path(folder) / "limbeck"
        shutil.copytree(ROOT / "src" / "limbeck", package, ignore=shutil.ignore_patterns("__pycache__"))
        if mutant:
            path = package / mutant.file
            path.write_text(broken(path.read_text(encoding="utf-8"), mutant), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        used = run([sys.executable, "-c", "import limbeck; print(limbeck.__file__)"], environment).stdout
        if not used.startswith(folder):
            sys.exit(f"the tests would run against {used.strip()}, not against the copy")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-m", "not slow", "-p", "no:cacheprovider"]
        done = run([*command, *(str(ROOT / "tests" / test) for test in tests)], environment)
        if done.returncode not in (0, 1):
            print(done.stdout[-3000:])
        return done.returncode


def broken(source: str, mutant: Mutant) -> str:
    """The source with the breakage in it."""
    if source.count(mutant.old) != 1:
        sys.exit(f"{mutant.name}: {mutant.old!r} stands {source.count(mutant.old)} times in {mutant.file}")
    return source.replace(mutant.old, mutant.new)


def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository, its two outputs as one text."""
    return subprocess.run(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def main(words: list[str]) -> int:
    """Try every mutant whose name holds all the `words`; 0 if the tests notice each."""
    chosen = [mutant for mutant in MUTANTS if all(word in mutant.name for word in words)]
    for tests in dict.fromkeys(mutant.tests for mutant in chosen):
        if try_mutant(None, tests) != 0:
            sys.exit(f"{', '.join(tests)}: not green without any breakage")
    survived = 0
    with ThreadPoolExecutor(int(os.environ.get("JOBS", "1"))) as pool:
        codes = pool.map(lambda mutant: try_mutant(mutant, mutant.tests), chosen)
        for mutant, code in zip(chosen, codes, strict=True):
            # Only a test that fails has noticed: tests that could not even be collected (another code) have not.
            print("noticed " if code == 1 else "SURVIVED", mutant.name, flush=True)
            survived += code != 1
    print(f"{len(chosen) - survived} of {len(chosen)} breakages noticed")
    return 1 if survived or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
