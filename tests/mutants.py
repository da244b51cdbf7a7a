# ruff: noqa: E501  (one breakage, one line)
"""Breakages that the tests must notice: python tests/mutants.py [words of their names]; mutate.py makes and tries them.

One is addressed by the function it is made in, so it stays what it is while all around it changes, and when the
function moves its address alone moves with it.
"""

import sys

from mutate import Mutant, main

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
PROGRESS = ("test_progress.py",)
REPORT = ("test_report_teaching.py",)
METHODS = ("test_report_methods.py",)
SMALLER = ("test_report_compressed.py", "test_report_front.py")
SEVERAL = ("test_multilabel.py",)
WEIGHTS = ("test_class_weights.py",)
UNLABELLED = ("test_unlabelled.py",)
STARTUP = ("test_startup.py",)
NEWROWS = ("test_data_tables.py",)
NEEDS = ("test_needs.py",)
STORE = ("test_store.py",)
QUANTIZE = ("test_quantize.py",)
CACHE = ("test_cache.py",)
SHRINK = ("test_shrink.py",)
REGRESSION = ("test_regression.py",)
TOKENS = ("test_tokens.py",)
PAIRED = ("test_evaluate_paired.py",)
LAYERS = ("test_export_layers.py",)
PRUNE = ("test_compress_prune.py",)
FACTORISE = ("test_compress_factorise.py",)
SPARSIFY = ("test_compress_sparsify.py",)
KERAS = ("test_keras.py",)
KERAS_FILES = ("test_keras_files.py",)
STORED = ("test_foreign_stored.py",)
TABLES = ("test_foreign_tables.py",)
DOCTOR = ("test_doctor.py",)

MUTANTS = [
    # losses
    Mutant("kd: KL flipped", "limbeck.losses.logit:kd", "rows = kl(log_t, log_s)", "rows = kl(log_s, log_t)", LOSSES),
    Mutant("kd: temperature not squared", "limbeck.losses.logit:kd", "temperature**2 * rows", "temperature * rows", LOSSES),
    Mutant("kd: no factor for the temperature", "limbeck.losses.logit:kd", "temperature**2 * rows", "rows", LOSSES),
    Mutant("kd: mean over classes", "limbeck.losses.divergences:kl", "masked_fill(p == 0, 0).sum(dim=-1)", "masked_fill(p == 0, 0).mean(dim=-1)", LOSSES),
    Mutant("kd: teacher not softened", "limbeck.losses.logit:kd", "log_s, log_t = softened(student, temperature), softened(teacher, temperature)", "log_s, log_t = softened(student, temperature), softened(teacher, 1.0)", LOSSES),
    Mutant("kd: student not softened", "limbeck.losses.logit:kd", "log_s, log_t = softened(student, temperature), softened(teacher, temperature)", "log_s, log_t = softened(student, 1.0), softened(teacher, temperature)", LOSSES),
    Mutant("kd: cross-entropy sold as KL", "limbeck.losses.divergences:kl", "p * (log_p - log_q)", "p * -log_q", LOSSES),
    Mutant("kd: student and teacher swapped", "limbeck.losses.logit:kd", "student, teacher = taught(", "teacher, student = taught(", LOSSES),
    Mutant("kd: NaN hidden", "limbeck.losses.divergences:kl", "masked_fill(p == 0, 0)", "masked_fill(~(p > 0), 0)", LOSSES),
    Mutant("js: shares of the mixture exchanged", "limbeck.losses.divergences:jensen_shannon", "math.log(beta), log_q + math.log1p(-beta)", "math.log1p(-beta), log_q + math.log(beta)", LOSSES),
    Mutant("soft_cross_entropy: no factor for the temperature", "limbeck.losses.logit:soft_cross_entropy", "-(temperature**2) * (p_t", "-(p_t", LOSSES),
    Mutant("lskd: C in the variance", "limbeck.losses.logit:_standardised", "math.sqrt(logits.shape[-1] - 1)", "math.sqrt(logits.shape[-1])", LOSSES),
    Mutant("wsld: weight the other way round", "limbeck.losses.logit:wsld", "-h_s / (h_t + 1e-7)", "-h_t / (h_s + 1e-7)", LOSSES),
    Mutant("wsld: gradient through the weight", "limbeck.losses.logit:wsld", "with torch.no_grad():", "with torch.enable_grad():", LOSSES),
    Mutant("tf_kd: probabilities do not sum to 1", "limbeck.losses.logit:tf_kd", "(1 - probability) / max(student.shape[-1] - 1, 1)", "(1 - probability) / student.shape[-1]", LOSSES),
    Mutant("ctkd: gradient not reversed", "limbeck.losses.logit:CTKD.forward", "(learned.detach() - learned)", "(learned - learned.detach())", LOSSES),
    Mutant("ctkd: reversed at once", "limbeck.losses.logit:CTKD.pace", "(1 - math.cos(math.pi * passed)) / 2", "1.0", LOSSES),
    Mutant("dkd: weights exchanged", "limbeck.losses.decoupled:dkd", "alpha * first + beta * second", "beta * first + alpha * second", DECOUPLED),
    Mutant("dkd: second part sees the label", "limbeck.losses.decoupled:_others", "log_softmax(log_p.masked_fill(label, -torch.inf), dim=-1)", "log_softmax(log_p, dim=-1)", DECOUPLED),
    Mutant("nkd: teacher's probability forgotten", "limbeck.losses.decoupled:nkd", "log_t.exp() * log_s * label", "log_s * label", DECOUPLED),
    Mutant("dist: cosine for correlation", "limbeck.losses.batchwise:_correlation", "a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)", "pass", BATCHWISE),
    Mutant("dist: over classes twice", "limbeck.losses.batchwise:dist", "_correlation(p_s.T, p_t.T)", "_correlation(p_s, p_t)", BATCHWISE),
    Mutant("mlld: the sure rows kept", "limbeck.losses.batchwise:_not_above_median", "x <= x.sort()", "x >= x.sort()", BATCHWISE),
    Mutant("dist: rows of this process alone", "limbeck.losses.batchwise:_rows_of_all", "return everywhere(student), everywhere(teacher)", "return student, teacher", PROCESSES),
    Mutant("sp: rows not scaled", "limbeck.losses.relation:sp", "unit(student @ student.T) - unit(teacher @ teacher.T)", "student @ student.T - teacher @ teacher.T", RELATION),
    Mutant("pkt: divergence flipped", "limbeck.losses.relation:pkt", "p_t * ((p_t + 1e-7) / (p_s + 1e-7)).log()", "p_s * ((p_s + 1e-7) / (p_t + 1e-7)).log()", RELATION),
    Mutant("cc: pairs of a row with itself", "limbeck.losses.relation:CC.forward", ".square().sum() - apart.square().sum()", ".square().sum()", RELATION),
    Mutant("rkd_distance: not in units of the mean", "limbeck.losses.relation:_distances", "apart / torch.where(average > 0, average, 1)", "apart", RELATION),
    Mutant("rkd_distance: mean over all pairs", "limbeck.losses.relation:_distances", "(apart > 0).sum().clamp(min=1)", "max(apart.numel(), 1)", RELATION),
    Mutant("rkd_angle: directions not scaled", "limbeck.losses.relation:_angles", "directions = unit(x[None] - vertices[:, None])", "directions = x[None] - vertices[:, None]", RELATION),
    Mutant("relations: dead rows blow up", "limbeck.losses.relation:unit", "torch.where(zero, 1, square).sqrt()).masked_fill(zero, 0)", "square.sqrt().clamp(min=1e-12))", RELATION),
    Mutant("relations: rows of this process alone", "limbeck.losses.relation:_related", "return everywhere(student.flatten(1)), everywhere(teacher.flatten(1))", "return student.flatten(1), teacher.flatten(1)", PROCESSES),
    Mutant("ickd: mean over all pairs of channels", "limbeck.losses.relation:ICKD.forward", "apart.square().sum(dim=2).mean(dim=1)", "apart.square().mean(dim=2).mean(dim=1)", RELATION),
    Mutant("everywhere: gradients not summed", "limbeck.losses.inputs:_Everywhere.backward", "torch.distributed.all_reduce(gradient)", "pass", PROCESSES),
    Mutant("crd: negatives of the same class", "limbeck.losses.memory:CRD._draw", "torch.where(draw >= first[:, None], draw + (end - first)[:, None], draw)", "draw", MEMORY),
    Mutant("crd: banks exchanged", "limbeck.losses.memory:CRD.forward", "((v_s, self.bank_teacher), (v_t, self.bank_student))", "((v_s, self.bank_student), (v_t, self.bank_teacher))", MEMORY),
    Mutant("crd: Z of every batch", "limbeck.losses.memory:CRD._normalise", "torch.where(self.log_z.isnan(), found, self.log_z)", "found", MEMORY),
    Mutant("crd: classes not saved", "limbeck.losses.memory:CRD.__init__", "torch.full((rows,), UNSEEN))", "torch.full((rows,), UNSEEN), persistent=False)", MEMORY),
    Mutant("crd: memory of this process's rows alone", "limbeck.losses.memory:CRD.forward", "found = everywhere(torch.cat([v_s, v_t, torch.stack(sums, dim=1)], dim=1).detach())", "found = torch.cat([v_s, v_t, torch.stack(sums, dim=1)], dim=1).detach()", PROCESSES),
    Mutant("attentive_imitation: pushed away from a bad teacher", "limbeck.losses.regression:AttentiveImitation.forward", "1 - error / reach).clamp(min=0)", "1 - error / reach)", LOSSES),
    Mutant("attentive_imitation: forgets earlier batches", "limbeck.losses.regression:AttentiveImitation.forward", "torch.cat([self.greatest[None], seen]).max()", "seen.max()", LOSSES),
    Mutant("label_quantile: the other quantile", "limbeck.losses.regression:label_quantile", "torch.maximum(quantile * missing, (quantile - 1) * missing)", "torch.maximum((1 - quantile) * missing, -quantile * missing)", LOSSES),
    Mutant("gaussian_kl: variances exchanged", "limbeck.losses.gaussian:gaussian_kl", "surer = log_t - log_s", "surer = log_s - log_t", UNCERTAIN),
    Mutant("label_gaussian_nll: deviation for variance", "limbeck.losses.gaussian:label_gaussian_nll", "rows = (LOG_TWO_PI + logs +", "rows = (LOG_TWO_PI + 2 * logs +", UNCERTAIN),
    Mutant("binary_kd: the no forgotten", "limbeck.losses.multilabel:_yes_and_no", "F.logsigmoid(-logits)]", "0 * logits]", UNCERTAIN),
    Mutant("label_binary: mean over classes", "limbeck.losses.multilabel:label_binary", "return mean(rows.sum(dim=-1), target)", "return mean(rows.mean(dim=-1), target)", UNCERTAIN),
    Mutant("ordinal_kd: complement forgotten", "limbeck.losses.ordinal:_thresholds", "torch.stack([up_to, beyond], dim=-1)", "torch.stack([up_to, up_to], dim=-1)", UNCERTAIN),
    Mutant("label_emd: classes not in order", "limbeck.losses.ordinal:label_emd", "class_shares(target, student)).cumsum(dim=-1)", "class_shares(target, student))", UNCERTAIN),
    Mutant("at: maps not scaled", "limbeck.losses.feature:_attention", "F.normalize(feature.square().mean(dim=1).flatten(1), dim=1)", "feature.square().mean(dim=1).flatten(1)", FEATURE),
    Mutant("nst: cross term counted once", "limbeck.losses.feature:nst", "- 2 * _alike", "- _alike", FEATURE),
    Mutant("cwd: over channels, not pixels", "limbeck.losses.feature:Cwd.forward", "torch.log_softmax(teacher.flatten(2) / self.temperature, dim=2)", "torch.log_softmax(teacher.flatten(2) / self.temperature, dim=1)", FEATURE),
    Mutant("mgd: kept and masked exchanged", "limbeck.losses.feature:Mgd.forward", ">= self.masked)", "< self.masked)", FEATURE),
    Mutant("vid: variance not trained", "limbeck.losses.feature:Vid.forward", "F.softplus(self.log_scale)", "F.softplus(self.log_scale.detach())", FEATURE),
    Mutant("tokens: last patch left out, not the class token", "limbeck.losses.projectors:_grid", "feature[:, first:]", "feature[:, : side**2]", FEATURE),
    Mutant("projectors: batch norm of a single value", "limbeck.losses.projectors:Norm.forward", "x.shape[0] * x.shape[2] * x.shape[3] < 2", "False", FEATURE),
    Mutant("ofd: margin forgotten", "limbeck.losses.joint:Ofd.forward", "torch.maximum(theirs, margin(theirs))", "theirs + 0 * margin(theirs)", JOINT),
    Mutant("ofd: margin of the last batch alone", "limbeck.losses.joint:Margin.forward", "self.seen += count", "self.seen.copy_(count)", JOINT),
    Mutant("ofd: earlier stages count whole", "limbeck.losses.joint:Ofd.forward", "part / 2**earlier", "part", JOINT),
    Mutant("reviewkd: shares exchanged", "limbeck.losses.joint:ReviewKD.forward", "ours * share[:, :1] + deeper * share[:, 1:]", "ours * share[:, 1:] + deeper * share[:, :1]", JOINT),
    Mutant("reviewkd: sizes weigh alike", "limbeck.losses.joint:_at_all_sizes", "weight /= 2", "weight /= 1", JOINT),
    Mutant("fsp: sum over pixels", "limbeck.losses.joint:_flows", "one.transpose(1, 2) / one.shape[2]", "one.transpose(1, 2)", JOINT),
    Mutant("srrl: classifier not copied", "limbeck.losses.transfer:Srrl.__init__", "head.weight.detach().clone().float()", "head.weight.detach()", TRANSFER),
    Mutant("srrl: classifier's part forgotten", "limbeck.losses.transfer:Srrl.forward", "self.beta * F.linear", "0 * F.linear", TRANSFER),
    Mutant("simkd: last ReLU forgotten", "limbeck.losses.transfer:SimKD.__init__", "normed(narrow, wanted), nn.ReLU()", "normed(narrow, wanted)", TRANSFER),
    Mutant("losses: teacher not detached", "limbeck.losses.inputs:taught", "(teacher.detach() if teacher.requires_grad else teacher)", "teacher", LOSSES),
    Mutant("losses: ignored rows counted", "limbeck.losses.inputs:mean", "counted = (target != IGNORED)", "counted = (target == target)", LOSSES),
    Mutant("losses: ignored rows related", "limbeck.losses.inputs:counted", "chosen = target != IGNORED", "chosen = target == target", BATCHWISE),
    Mutant("losses: autocast reaches products", "limbeck.losses.precision:in_full_precision.exactly", "enabled=False", "enabled=True", BATCHWISE),
    Mutant("hard: smoothing forgotten", "limbeck.losses.logit:hard", ", label_smoothing=label_smoothing", "", LOSSES),
    Mutant("mse: sum over outputs", "limbeck.losses.regression:mse", "(student - teacher).square().mean(", "(student - teacher).square().sum(", LOSSES),
    Mutant("label_mse: absolute error", "limbeck.losses.regression:label_mse", "(student - target).square().mean(", "(student - target).abs().mean(", LOSSES),
    Mutant("label_smooth_l1: beta forgotten", "limbeck.losses.regression:label_smooth_l1", ", beta=beta)", ")", LOSSES),
    Mutant("teacher_bounded: bound reversed", "limbeck.losses.regression:teacher_bounded", "margin > of_teacher", "margin < of_teacher", LOSSES),
    Mutant("teacher_bounded: margin's sign", "limbeck.losses.regression:teacher_bounded", "of_student + margin >", "of_student - margin >", LOSSES),
    Mutant("teacher_bounded: tie counted", "limbeck.losses.regression:teacher_bounded", "margin > of_teacher", "margin >= of_teacher", LOSSES),
    Mutant("teacher_bounded: NaN hidden", "limbeck.losses.regression:teacher_bounded", "of_student, done)", "of_student, 0)", LOSSES),
    Mutant("losses: half precision kept", "limbeck.losses.inputs:exact", "else student.float()", "else student", LOSSES),
    Mutant("losses: empty batch is NaN", "limbeck.losses.inputs:mean", "max(rows.numel(), 1)", "rows.numel()", LOSSES),
    Mutant("losses: shapes may broadcast", "limbeck.losses.inputs:measured", "if student.shape != target.shape:", "if False:", LOSSES),
    # objective
    Mutant("objective: weights ignored", "limbeck.objective.terms:Objective._values", "torch.add(total, value, alpha=weight)", "total + value", OBJECTIVE),
    Mutant("objective: values weighted", "limbeck.objective.terms:Objective._values", "                values[term.name] = _value(term, taught, indexed, seen, teacher, rows)\n            elif", "                values[term.name] = 3 * _value(term, taught, indexed, seen, teacher, rows)\n            elif", OBJECTIVE),
    Mutant("objective: student and teacher swapped", "limbeck.objective.terms:_value", "else loss(of_student, of_teacher, batch.y)", "else loss(of_teacher, of_student, batch.y)", OBJECTIVE),
    Mutant("objective: teacher's tap ignored", "limbeck.objective.terms:_value", "_select(teacher, term.teacher,", "_select(teacher, PREDICTION,", OBJECTIVE),
    Mutant("objective: watched terms learn", "limbeck.objective.terms:Objective._values", "with torch.no_grad():", "with torch.enable_grad():", OBJECTIVE),
    Mutant("objective: autocast reaches the losses", "limbeck.objective.terms:Objective.forward", "enabled=False", "enabled=True", OBJECTIVE),
    Mutant("objective: schedules stand still", "limbeck.objective.terms:Objective._weigh", "weight.at(self._epoch, self.epochs)", "weight.at(0.0, self.epochs)", OBJECTIVE),
    Mutant("objective: options stand still", "limbeck.objective.terms:Objective.pace", "ramp.at(epoch, self.epochs)", "ramp.at(0.0, self.epochs)", OBJECTIVE),
    Mutant("balance: upside down", "limbeck.objective.balance:Balancer.ratios", "(logs[0] - logs[1:]).exp()", "(logs[1:] - logs[0]).exp()", OBJECTIVE),
    Mutant("balance: at the first layer", "limbeck.objective.balance:Balancer._find", "range(len(self._parameters) - 1, -1, -1)", "range(len(self._parameters))", OBJECTIVE),
    Mutant("balance: never frozen", "limbeck.objective.terms:Objective._values", "self._looks < BALANCE_STEPS and", "bool(self.balanced) and", OBJECTIVE),
    Mutant("balance: not restored", "limbeck.objective.terms:Objective.__init__", "module._recall())", "None)", OBJECTIVE),
    Mutant("pairing: always the first stages", "limbeck.pairing:pairs", "math.ceil((n + 1) * len(many) / len(few)) - 1", "n", ("test_pairing.py",)),
    Mutant("pairing: a squeeze counts as a stage", "limbeck.pairing:_by_size", "for call in reversed(maps):", "for call in maps:", ("test_pairing.py",)),
    Mutant("pairing: what is overwritten is offered", "limbeck.pairing:_watch", "c.output._version == c.version", "True", ("test_pairing.py",)),
    Mutant("fitting: the seed forgotten", "limbeck.fitting:Fitting.objective", "torch.manual_seed(seed)", "torch.manual_seed(0)", ("test_fitting.py::test_weights_of_losses_follow_from_the_seed",)),
    Mutant("objective: losses not registered", "limbeck.objective.terms:Objective.__init__", "if isinstance(term.loss, nn.Module)}", "if term.loss is None}", OBJECTIVE),
    # taps
    Mutant("taps: hooks stay", "limbeck.taps:_remove", "handle.remove()", "handle.id", TAPS),
    Mutant("taps: the last call wins", "limbeck.taps:_feature", "if len(calls) > 1:", "calls = calls[-1:]\n    if len(calls) > 1:", TAPS),
    Mutant("taps: features kept after a call", "limbeck.taps:Taps.__call__", "record.open = False\n            record.seen.clear()", "record.open = False", TAPS),
    Mutant("taps: overwritten feature passes", "limbeck.taps:_feature", "output._version != version", "output._version < version", TAPS),
    # augmentation
    Mutant("augment: the same numbers in every view", "limbeck.augment.draws:_start", "(seed, view, DRAWS.index(name))", "(seed, 0, DRAWS.index(name))", AUGMENT),
    Mutant("augment: numbers of the place in the batch", "limbeck.augment.draws:bits", "z = index * ", "z = torch.arange(len(index)) * ", AUGMENT),
    Mutant("augment: not rounded to 8 bits", "limbeck.augment.views:_made.images", "part.mul_(255).round_()", "part.mul_(255)", AUGMENT),
    Mutant("augment: partners of another view", "limbeck.augment.views:keyed.fetch", "views(partner, view)", "views(partner, view + 1)", AUGMENT),
    Mutant("augment: parameters of the first part for all", "limbeck.augment.images:augmented", "*(torch.split(each, step) for", "*([torch.split(each, step)[0]] * len(torch.split(each, step)) for", AUGMENT),
    Mutant("augment: what it is given is overwritten", "limbeck.augment.images:augment", "(part.clone(memory_format=torch.contiguous_format) for part in torch.split(x, step))", "iter(torch.split(x, step))", AUGMENT),
    # teachers
    Mutant("teacher: thawed", "limbeck.teachers.frozen:Frozen.__init__", "copy.deepcopy(model).eval()", "copy.deepcopy(model).train()", TEACHERS),
    Mutant("teacher: not a copy", "limbeck.teachers.frozen:Frozen.__init__", "copy.deepcopy(model)", "model", TEACHERS),
    Mutant("teacher: gradients on", "limbeck.teachers.frozen:Frozen.__call__", "@torch.no_grad()", "@torch.enable_grad()", TRAIN + TEACHERS),
    Mutant("teacher: probabilities taken for logits", "limbeck.teachers.frozen:Frozen.__call__", "if self.probabilities:", "if False:", TEACHERS),
    Mutant("ensemble: average of logits", "limbeck.teachers.joining:average", "log_shares(predictions).logsumexp(dim=0) - math.log(len(predictions))", "predictions.mean(dim=0)", TEACHERS),
    Mutant("ensemble: constants of members seen", "limbeck.teachers.joining:logits_average", "(logits - logits.mean(dim=-1, keepdim=True))", "predictions", TEACHERS),
    Mutant("ensemble: a class ruled out is infinite", "limbeck.teachers.joining:log_shares", "torch.where(logs == -torch.inf, math.log(torch.finfo(logs.dtype).tiny), logs)", "logs", TEACHERS),
    Mutant("ensemble: RMSE for MSE", "limbeck.teachers.joining:validation_weights", "(least / s) ** 2", "(least / s)", TEACHERS),
    Mutant("ensemble: confidence of the batch", "limbeck.teachers.joining:by_confidence", "entr(logs.exp()).sum(dim=-1)", "entr(logs.exp()).sum(dim=-1).mean(dim=1, keepdim=True)", TEACHERS),
    Mutant("stack: on rows it was fitted on", "limbeck.teachers.stacking:_plainest", "rows[~out], target[~out]", "rows, target", STACKING),
    Mutant("stack: nothing holds it back", "limbeck.teachers.stacking:_answers.of_all", "penalty * torch.stack(apart).sum()", "0 * penalty * torch.stack(apart).sum()", STACKING),
    Mutant("joint: statistics not in the file", "limbeck.teachers.stacking:Joint.__init__", "persistent=True", "persistent=False", STACKING),
    Mutant("disagreement: divergence reversed", "limbeck.evaluate.scores:disagreement", "sum(1).mean() - entropies", "sum(1).mean() * 0 + entropies", EVALUATE),
    # the loop
    Mutant("train: student in eval mode", "limbeck.train.loop:_Loop._epoch", "learner.forward.train()", "learner.forward.eval()", TRAIN),
    Mutant("train: the same order every epoch", "limbeck.train.loop:_Loop._batches", 'derive_seed(self.seed, "order", epoch)', 'derive_seed(self.seed, "order", 0)', TRAIN),
    Mutant("train: the same view every epoch", "limbeck.train.loop:_Loop._batches", "if self.views else lap", "if self.views else 0", TRAIN),
    Mutant("train: views without end", "limbeck.train.loop:_Loop._batches", "lap % self.views if self.views else lap", "lap", TRAIN),
    Mutant("train: dropout not seeded", "limbeck.train.loop:_Loop._epoch", 'seed_everything(self.seed, "epoch", epoch, self.accelerator.process_index)', "torch.seed()", TRAIN),
    Mutant("train: parts of a batch not weighted", "limbeck.train.loop:_Loop._step", "fraction * share", "share", TRAIN),
    Mutant("train: losses of parts not weighted", "limbeck.train.loop:_Loop._step", "v.detach() * fraction", "v.detach()", TRAIN),
    Mutant("train: optimizer not resumed", "limbeck.train.learner:Learner.restore", 'self.optimizer.load_state_dict(state["optimizer"])', "pass", TRAIN),
    Mutant("train: average not resumed", "limbeck.train.learner:Learner.restore", 'self.ema.load_state_dict(state["ema"])', "pass", TRAIN),
    Mutant("train: losses' weights not resumed", "limbeck.train.learner:Learner.restore", 'self.losses.load_state_dict(state["objective"])', "pass", TRAIN),
    Mutant("train: last weights sold as best", "limbeck.train.learner:Learner.leave_selected", 'load_weights(self.inner, self.folder / "best.safetensors")', 'load_weights(self.inner, self.folder / "last.safetensors")', TRAIN),
    Mutant("train: NaN goes on", "limbeck.train.tally:Tally.settle", "if not len(bad):", "if True:", TRAIN),
    Mutant("train: NaN told at another step", "limbeck.train.tally:Tally.settle", "len(self._rows) - len(totals) + int(bad[0])", "int(bad[0])", TRAIN),
    Mutant("train: losses not weighted by rows", "limbeck.train.tally:Tally.sums", "(table * rows[:, None])", "(table * rows.mean())", TRAIN),
    Mutant("train: gradients not clipped", "limbeck.train.learner:Learner.step", "if self.plan.clip_norm:", "if False:", TRAIN),
    Mutant("train: cosine at half speed", "limbeck.train.schedule:learning_rate", "math.cos(math.pi * since / span)", "math.cos(math.pi * since / span / 2)", TRAIN),
    Mutant("train: chosen on the test split", "limbeck.train.learner:Learner.validate", "self.shown, data, data.val,", "self.shown, data, data.test,", TRAIN),
    # peers
    Mutant("mutual: a peer learns from itself", "limbeck.train.loop:fit_mutual.losses", "enumerate(told) if place != n]", "enumerate(told)]", MUTUAL),
    Mutant("mutual: others not taken as constants", "limbeck.train.loop:_constant", "Output(output.prediction.detach(),", "Output(output.prediction,", MUTUAL),
    Mutant("mutual: sum over the other peers", "limbeck.train.loop:_mean", "for values in losses]).mean() for name", "for values in losses]).sum() for name", MUTUAL),
    Mutant("mutual: stops with the first out of patience", "limbeck.train.loop:_Loop.run", "if all(learner.out_of_patience", "if any(learner.out_of_patience", MUTUAL),
    Mutant("mutual: loss scale forgotten", "limbeck.train.loop:_Loop._resume", 'self.accelerator.scaler.load_state_dict(state["scaler"])', "pass", MUTUAL),
    Mutant("train: scaled gradients clipped", "limbeck.train.learner:Learner.step", "scaler.unscale_(self.optimizer)", "pass", MUTUAL),
    Mutant("mutual: another peer named for the NaN", "limbeck.train.loop:_Loop._refuse_nonfinite", "min(bad, key=lambda one: one[0])", "bad[0]", MUTUAL),
    Mutant("mutual: first peer resumed for all", "limbeck.train.loop:_Loop._resume", "learner.restore(own)", 'learner.restore(state["networks"][0])', MUTUAL),
    # what is made of it
    Mutant("compare: errors taken for scores", "limbeck.verdict:compare", "sign = 1.0 if higher_is_better else -1.0", "sign = 1.0", EVALUATE),
    Mutant("compare: seeds not paired", "limbeck.verdict:compare", "for s, d in zip(student, distilled, strict=True)", "for s, d in zip(sorted(student), sorted(distilled), strict=True)", EVALUATE),
    Mutant("interval: normal, not Student", "limbeck.verdict:interval", "float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))", "1.96", EVALUATE),
    Mutant("p-value: one side only", "limbeck.verdict:p_value", "return 2 * float(stdtr", "return float(stdtr", EVALUATE),
    Mutant("holm: every p-value multiplied alike", "limbeck.verdict:holm", "(len(p_values) - rank) * p_values[i]", "len(p_values) * p_values[i]", EVALUATE),
    Mutant("holm: smaller than one before it", "limbeck.verdict:holm", "least = max(least, min(", "least = max(0.0, min(", EVALUATE),
    Mutant("predict: in training mode", "limbeck.evaluate.scores:predict", "model.eval()", "model.train()", EVALUATE),
    Mutant("batches: rows lost", "limbeck.data.core:parts", "range(0, len(rows), size)", "range(0, len(rows) - size + 1, size)", DATA),
    Mutant("batches: row numbers of the batch, not the data", "limbeck.data.core:fetcher.fetch", "rows.to(device), view)", "torch.arange(len(rows)).to(device), view)", DATA),
    Mutant("scaling: the logarithm is not undone", "limbeck.data.core:Scaling.restore", "return own.maximum(low).minimum(high).exp()", "return own.maximum(low).minimum(high)", REGRESSION),
    Mutant("metrics: outputs compared in mixed units", "limbeck.evaluate.scores:_regression", "(learned[0] - learned[1]).square()", "(prediction - target).square()", REGRESSION),
    Mutant("cards: inputs one place off", "limbeck.export.card:_table", "range(place, place + len(column.inputs))", "range(place + 1, place + 1 + len(column.inputs))", REGRESSION),
    Mutant("page: residuals of the true value", "limbeck.report.values:_residuals", "p / t if logs else p - t", "p / t if logs else t - p", REGRESSION),
    Mutant("metrics: padding counts", "limbeck.evaluate.scores:_counted", "return values[target.to(values.device) != IGNORED]", "return values[target.to(values.device) != IGNORED - 1]", TOKENS),
    Mutant("training: parts weighted by rows, not tokens", "limbeck.train.loop:_split", "int((piece.y != IGNORED).sum())) for piece, _ in pieces", "len(piece.index)) for piece, _ in pieces", TOKENS),
    Mutant("training: batches weighted by rows, not tokens", "limbeck.data.core:count_labels", ".sum()) if data.per_token else len(rows)", ".sum()) if not data else len(rows)", TOKENS),
    Mutant("scaling: measured on all rows", "limbeck.data.core:measure", "chunks = torch.split(rows, step)", "chunks = torch.split(torch.arange(len(x)), step)", DATA),
    Mutant("files: written in place", "limbeck.runtime:write_atomic", "write(part)", "write(path) or write(part)", RUNTIME),
    # the report
    Mutant("report: seeds of a generation not told apart from another's", "limbeck.report.roles:named", 'f"generation {number[1]}") if number', '"generation") if number', REPORT),
    Mutant("report: size of a store counted at every opening", "limbeck.report.stored:stored", "for key in keys)", 'for key in (o["key"] for o in group))', REPORT),
    Mutant("report: intervals of the ensemble's students forgotten", "limbeck.report.scores:members", "reach or (mean, mean), name", "(mean, mean), name", REPORT),
    Mutant("report: verdicts of methods not corrected", "limbeck.report.methods:methods", 'adjusted = holm([p_value(entry["gain"]["values"]) for entry in entries])', 'adjusted = [p_value(entry["gain"]["values"]) for entry in entries]', METHODS),
    Mutant("report: methods in the order of the recipe", "limbeck.report.methods:methods", "sorted(found, key=lambda method: -method.mean)", "found", METHODS),
    Mutant("report: compared students among the curves", "limbeck.report.figures:_runs", "if name not in left_out}", "}", METHODS),
    Mutant("report: options of a loss that are 0 not told", "limbeck.report.words:_term", "and value is not None:", "and value:", METHODS),
    Mutant("report: every comparison on an axis of its own", "limbeck.report:_content", "figures.gains(other, ends)", "figures.gains(other)", REPORT),
    Mutant("report: int8 praised where it is slower", "limbeck.report.files:no_faster", "if by > NOISE]", "if by < -NOISE]", SMALLER),
    Mutant("report: a front with points that others beat", "limbeck.report.pareto:front", "(point.score - best[-1].score) > 0:", "(point.score - best[-1].score) >= 0:", SMALLER),
    Mutant("report: recovery alone shown with the teacher's score", "limbeck.report.smaller:_way", 'alone = _level(metric, taught["student"])', 'alone = _level(metric, taught["distilled"])', SMALLER),
    Mutant("report: trials outside the budget before those within", "limbeck.report.budget:ranked", 'key=lambda t: (not t["within"], t["value"])', 'key=lambda t: t["size_kb"]', SMALLER),
    Mutant("report: shares of another runtime's float file", "limbeck.report.files:made", 'else plain.get(m["format"]))', "else next(iter(plain.values()), None))", SMALLER),
    # smaller students in a run
    Mutant("shrink: what recovers alone asks the teacher", "limbeck.shrink:shrink_one", 'walk(job, chain, start, None, "compressed-alone")', 'walk(job, chain, start, teacher, "compressed-alone")', SHRINK),
    Mutant("shrink: zeros are let go before training", "limbeck.shrink:_recovered", "zeros = compress.keep_zeros(network, edits)", "(zeros := compress.keep_zeros(network, edits)).remove()", SHRINK),
    Mutant("shrink: every round takes the whole ratio", "limbeck.shrink:_prune", "ratio=1 - (1 - then) / (1 - done)", "ratio=share", SHRINK),
    Mutant("paired: the drop that is allowed is not", "limbeck.evaluate.paired:loss", "_exceeds(lost - allowed, seed)", "_exceeds(lost, seed)", PAIRED),
    Mutant("paired: the smaller and the larger model swapped", "limbeck.evaluate.paired:loss", "lost = right[0] - right[1]", "lost = right[1] - right[0]", PAIRED),
    Mutant("stages: what was done for another key is kept", "limbeck.stages:Stages.alone", "(renew or nothing)", "nothing", SHRINK),
    # several labels, rare classes, rows without a label
    Mutant("labels: probability of the logits' mean", "limbeck.teachers.joining:answers_average", "_log_odds(log_answers(predictions).logsumexp(dim=1))", "predictions.mean(dim=0)", SEVERAL),
    Mutant("labels: ties are ranked", "limbeck.evaluate.labels:average_precision", "scores[order].diff() != 0", "scores[order].diff() != -1", SEVERAL),
    Mutant("labels: yes to everything taken for probabilities", "limbeck.models.softmax:gives_answers", " and (rows < 0.5).any()", "", SEVERAL),
    Mutant("labels: rare sets are not stratified", "limbeck.data.several:strata", "found[few] = -1 - rarest[few]", "found[few] = -1", SEVERAL),
    Mutant("class weights: of all rows, not of those learned from", "limbeck.data.weights:class_weights", "class_counts(data, data.train)", "class_counts(data, torch.arange(len(data.y)))", WEIGHTS),
    Mutant("class weights: given ones not scaled", "limbeck.data.weights:class_weights", "given * rows / given.dot(counts)", "given", WEIGHTS),
    Mutant("class weights: the student alone without", "limbeck.objectives:alone", "own_options(term, plan, job.data.task.weights)", "own_options(term, plan)", WEIGHTS),
    Mutant("balanced accuracy: judged by rows", "limbeck.evaluate.paired:loss", 'if main_metric(task).name in ("balanced_accuracy", "map"):', 'if main_metric(task).name == "map":', WEIGHTS),
    Mutant("unlabelled: few labels in a batch count in full", "limbeck.objective.terms:Objective._labelled", "len(kept.index) / (len(rows) * self.share)", "1.0", UNLABELLED),
    Mutant("unlabelled: tested rows are learned from", "limbeck.data.raw:_unlabelled", "digest not in seen", "True", UNLABELLED),
    Mutant("unlabelled: the student alone has fewer steps", "limbeck.data.core:again", "return torch.cat(laps)[:wanted]", "return torch.cat(laps)[:count]", UNLABELLED),
    Mutant("unlabelled: partners of the other kind", "limbeck.augment.views:keyed.fetch", "torch.where(torch.isin(index.to(rows.device), unlabelled), theirs, partner)", "partner", UNLABELLED),
    # the search
    Mutant("tune: a search that goes on draws other trials", "limbeck.tune.search:following", 'TPESampler(seed=derive_seed("tune", number) % 2**32)', "TPESampler()", ("test_tune.py::test_ctrl_c_keeps_the_trials_and_the_same_command_goes_on",)),
    Mutant("tune: an interrupted trial is left behind", "limbeck.tune.search:following", "if trial.state == TrialState.RUNNING]", "if trial.state == TrialState.PRUNED]", ("test_tune.py::test_ctrl_c_keeps_the_trials_and_the_same_command_goes_on",)),
    Mutant("tune: terms of labels are lost", "limbeck.tune.space:terms", "return {**labels, candidate.term", "return {candidate.term", ("test_tune.py::test_what_is_found_or_moves_in_the_recipe_begins_at_its_published_number",)),
    Mutant("tune: the largest error is the best", "limbeck.tune:_written", "ranked(trials, higher=setting.higher)", "ranked(trials, higher=True)", ("test_tune.py::test_values_are_searched_too_and_less_error_is_better",)),
    Mutant("tune: a full disk counts as a failed trial", "limbeck.tune:_tried", "except DivergedError as error:", "except UserError as error:", ("test_tune.py::test_what_else_goes_wrong_in_a_training_ends_the_search_and_the_trial_is_made_again",)),
    # compress
    Mutant("compress: layer norms lose their order", "limbeck.compress.groups:_layer_norm_pruner.InOrder.prune_out_channels", "kept = sorted(set(range(shape[dim])) - set(idxs))", "kept = list(set(range(shape[dim])) - set(idxs))", PRUNE),
    Mutant("compress: the caller's network pruned", "limbeck.compress.prune:plan_prune", "own = copy.deepcopy(model)", "own = model", PRUNE),
    Mutant("compress: the most important channels go", "limbeck.compress.prune:_history", "scores[n].argsort(stable=True)[:gone]", "scores[n].argsort(stable=True)[-gone:]", PRUNE),
    Mutant("compress: batches cancel in taylor", "limbeck.compress.prune:_scores", "_by_unit(group, _change, reading=True).square()", "_by_unit(group, _change, reading=True)", PRUNE),
    Mutant("compress: heads not whole", "limbeck.compress.groups:_group", "width = attention.head_dim", "width = 1", PRUNE),
    Mutant("compress: number of heads forgotten", "limbeck.compress.groups:cut", "module.num_heads = module.proj.in_features // module.head_dim", "pass", PRUNE),
    Mutant("compress: torch's heads cut unevenly", "limbeck.compress.groups:_divisions", "return int(module.num_heads)", "return 1", PRUNE),
    Mutant("compress: cap forgotten", "limbeck.compress.prune:_fewest", "allowed = math.ceil(round((1 - cap) * count, 6) / group.step) * group.step", "allowed = 0", PRUNE),
    Mutant("compress: timm's widths forgotten", "limbeck.compress.prune:apply_prune", 'correct(network, before, shapes(network, edit["shape"]))', "pass", PRUNE),
    Mutant("compress: spatial factors both vertical", "limbeck.compress.lowrank:spatial_svd", '"padding": _axis(layer.padding, 1)', '"padding": _axis(layer.padding, 0)', FACTORISE),
    Mutant("compress: bias twice", "limbeck.compress.lowrank:channel_svd", "_conv(first, None, layer, **same), _conv(second, layer.bias, layer))", "_conv(first, layer.bias[: len(first)] if layer.bias is not None else None, layer, **same), _conv(second, layer.bias, layer))", FACTORISE),
    Mutant("compress: energy of values, not squares", "limbeck.compress.lowrank:energy_rank", "values.square().cumsum(0) / values.square().sum()", "values.cumsum(0) / values.sum()", FACTORISE),
    Mutant("compress: one sweep of Tucker on the wrong side", "limbeck.compress.lowrank:tucker2", '"oihw,or->irhw", weight, u_out', '"oihw,or->irhw", weight, u_out * 0 + 1', FACTORISE),
    Mutant("compress: factors that save nothing", "limbeck.compress.factorise:_saves", "return fewer and _macs([*factors], x) < _macs([own], x)", "return fewer", FACTORISE),
    Mutant("compress: time not asked", "limbeck.compress.factorise:plan_factorise.worth", "return faster is None or faster(", "return True or faster(", FACTORISE),
    Mutant("compress: fused transformer path taken", "limbeck.compress.factorise:apply_factorise", "modules[parent].activation_relu_or_gelu = 0", "pass", FACTORISE),
    Mutant("compress: zeros learn", "limbeck.compress.sparsify:_masking.masked", "gradient.masked_fill(~mask.to(gradient.device), 0)", "gradient", SPARSIFY),
    Mutant("compress: fours along the outputs", "limbeck.compress.sparsify:_two_of_four", "last = weight.movedim(1, -1)", "last = weight.movedim(0, -1)", SPARSIFY),
    # the doctor
    Mutant("doctor: an order judged by its own rows", "limbeck.doctor.alignment:Orders.hits", "torch.where(self.half, self.second[truth], self.first[truth])", "torch.where(self.half, self.first[truth], self.second[truth])", DOCTOR),
    Mutant("doctor: whatever is better is believed", "limbeck.doctor.inputs:misfit", "if best - own >= MARGIN and best >= _needed(data, rows, given) and chance < SURE:", "if best - own >= MARGIN:", DOCTOR),
    Mutant("doctor: any sure teacher ends in two softmaxes", "limbeck.doctor.outputs:softmax", "twice = bool((shares >= -1e-3).all()) and", "twice =", DOCTOR),
    Mutant("doctor: answers in other company compared with other rows'", "limbeck.doctor.steadiness:steadiness", "batch_size=24)[order.argsort()]", "batch_size=24)", DOCTOR),
    Mutant("doctor: a run does not look at what is brought along", "limbeck.teach:teach", "None if spec.train else spec)", "None)", ("test_checkup.py::test_a_run_says_the_same_before_anybody_learns",)),
    Mutant("forecast: one student whatever the seeds", "limbeck.outline:_everything", "for seed in checked.seeds:", "for seed in checked.seeds[:1]:", ("test_checkup.py::test_every_training_is_counted",)),
    Mutant("forecast: libraries for every file", "limbeck.expected:importing", "for form in forms)", "for form in [form_of(name) for names in shipped for name in names])", ("test_checkup.py::test_libraries_are_counted_once_however_many_files_there_are",)),
    Mutant("forecast: peers train for nothing", "limbeck.forecast:_training_seconds", "one.count * one.plan.epochs * epoch", "one.plan.epochs * epoch", ("test_checkup.py::test_peers_take_the_time_of_as_many_trainings",)),
    # the progress
    Mutant("progress: steps of an earlier run set the pace", "limbeck.course:Course.skip", "self._now.done = done", "self.reach(done)", PROGRESS),
    Mutant("progress: the first step sets the pace", "limbeck.course:Course.reach", "worked >= 1 or", "worked > 0 or", PROGRESS),
    Mutant("progress: a pace is believed at once", "limbeck.course:Course.reach", " and (now.known is None or done >= SHARE * self.work)", "", PROGRESS),
    Mutant("progress: what was done before is done again", "limbeck.course:Course.left", " if part.name not in self._over", "", PROGRESS),
    Mutant("progress: what is not known is nothing", "limbeck.course:Course.left", "if len(known) == len(parts) else None", "", PROGRESS),
    Mutant("log: kept until there is enough of it", "limbeck.progress:Progress.kept", "log.open(\"ab\", buffering=0)", "log.open(\"ab\")", PROGRESS),
    Mutant("log: the last run alone", "limbeck.progress:Progress.kept", "\"ab\"", "\"wb\"", PROGRESS),
    # the command line
    Mutant("start-up: every installed package searched", "limbeck.cli:main", 'os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")', "pass", STARTUP),
    Mutant("start-up: help reads recipes", "limbeck.cli:main", "words = [", "import limbeck.recipe\n    words = [", STARTUP),
    Mutant("start-up: a page waits for torch", "limbeck.report", "from limbeck.verdict import interval", "from limbeck.evaluate import interval", STARTUP),
    Mutant("start-up: a prediction waits for torch", "limbeck.predicting", "from limbeck.sources.tables import", "from limbeck.data import", STARTUP),
    Mutant("needs: a column that there is not", "limbeck.needs.lacking:_data", "if column not in names:", "if False:", NEEDS),
    Mutant("needs: a fallback is no help", "limbeck.needs.lacking:_data", "if spec.fallback is None or spec.fallback == spec.source:", "if True:", NEEDS),
    Mutant("needs: what is trained begins anew", "limbeck.needs.lacking:_trained", "return any(path.exists() for path in done)", "return False", NEEDS),
    Mutant("needs: files of ones own recipe may be elsewhere", "limbeck.needs.lacking:check", "if not (one.file and elsewhere)]", "if not one.file]", NEEDS),
    Mutant("needs: quantizers are not looked for", "limbeck.needs.lacking:_libraries", "check_quantizer if", "check_format if", NEEDS),
    Mutant("needs: whatever is cached will do", "limbeck.needs.weights:_of_timm", "return None if _cached(published.hub, files) else", "return None if files else", NEEDS),
    Mutant("needs: a hub that answers with an error is none", "limbeck.needs.weights:_answers", "except (HTTPError, HTTPException):\n        return True", "except (HTTPError, HTTPException):\n        return False", NEEDS),
    Mutant("needs: the first weights rather than those that are marked", "limbeck.needs.catalogue:weights_of", "if key == model or key.endswith(\"*\")), next(iter(there), \"\"))", "if False), next(iter(there), \"\"))", NEEDS),
    Mutant("needs: former names of models are forgotten", "limbeck.needs.catalogue:_models", "(*_MODEL.findall(text), *dict(_old_names(text)))", "_MODEL.findall(text)", NEEDS),
    Mutant("tables: the mark before a text is part of a column's name", "limbeck.sources.tables:_opened", 'path.open(encoding="utf-8-sig"', 'path.open(encoding="utf-8"', NEWROWS),
    Mutant("tables: the rows' own names taken for a column", "limbeck.sources.tables:_blocks_of_words", "skipped = max(0, len(first or ()) - len(names))", "skipped = 0", NEWROWS),
    Mutant("tables: a block of rows ends the table", "limbeck.sources.tables:_blocks_of_words", "if len(rows) < BLOCK:", "if rows:", NEWROWS),
    # export
    Mutant("export: a graph stays while its weights are replaced", "limbeck.export.places:put", "zip(reversed(source), reversed(target), strict=True)", "zip(source, target, strict=True)", ("test_export_elsewhere.py::test_a_stop_between_two_files_leaves_none_that_looks_whole",)),
    Mutant("export: bytes are cut off, not rounded", "limbeck.export.interface:as_given", "np.rint(rows * 255)", "(rows * 255)", ("test_export_elsewhere.py::test_tables_have_no_layout",)),
    Mutant("export: the reason is that of the last error", "limbeck.export.chatter:cause", "while error.__cause__ is not None:", "while False:", ("test_export_elsewhere.py::test_a_failure_tells_its_reason",)),
    Mutant("export: memory with the runtime in it", "limbeck.export.runtime:serve", "else peak - empty", "else peak", ("test_serving.py::test_memory_is_that_of_the_file_and_not_of_the_runtime_or_the_parent",)),
    Mutant("export: a dead runtime is asked for ever", "limbeck.export.process:receive", "return (told, np.frombuffer(content, dtype).reshape(shape)) if len(content) == size else None", "return told, np.frombuffer(content, dtype).reshape(shape)", ("test_serving.py::test_messages_keep_arrays_as_they_are",)),
    Mutant("export: what is folded away counts as wrong", "limbeck.export.layers:_first_wrong", "right[node] = same or any(", "right[node] = same and any(", LAYERS),
    Mutant("export: the last wrong layer is named", "limbeck.export.layers:_first_wrong", "(node for node in graph.graph.nodes if", "(node for node in reversed(graph.graph.nodes) if", LAYERS),
    # quantize
    Mutant("quantize: calibration rows not balanced", "limbeck.quantize.rows:calibration", "turn[own] = np.arange(len(own))", "turn[own] = 0", QUANTIZE),
    Mutant("quantize: NaN rows measured", "limbeck.quantize.rows:check_rows", 'if rows.dtype.kind == "f" and not np.isfinite(rows).all():', "if False:", QUANTIZE),
    Mutant("quantize: noise of the input blamed on the layer", "limbeck.quantize.errors:ranked", "added = max(out - before,", "added = max(out,", QUANTIZE),
    Mutant("quantize: more layers left in float than needed", "limbeck.quantize.making:within", "while enough - too_few > 1:", "while enough - too_few > 2:", QUANTIZE),
    Mutant("quantize: unsigned zero points off by one", "limbeck.quantize.onnx:_unsigned_activations", "zero.astype(np.int16) + 128", "zero.astype(np.int16) + 127", QUANTIZE),
    # Keras
    Mutant("keras: always in evaluation mode", "limbeck.models.keras:KerasNetwork.forward", "given: Tensor = self._graph.model(x, training=self.training)", "given: Tensor = self._graph.model(x, training=False)", KERAS),
    Mutant("keras: statistics of batch norm are forgotten", "limbeck.models.keras:KerasNetwork.forward", "if name in owner._buffers:", "if False:", KERAS),
    Mutant("keras: the softmax stays away from the model", "limbeck.models.keras:_Graph.opened", "self._closing.activation = before", "pass", KERAS),
    Mutant("keras: first weights follow no seed", "limbeck.models.backend:making", "random.seed(int(torch.randint(2**62, ())))", "random.seed()", KERAS),
    Mutant("keras: a twin's pool is not padded", "limbeck.models.twins:conv_leaky", 'layers.MaxPooling2D(2, strides=1, padding="same"', 'layers.MaxPooling2D(2, strides=1, padding="valid"', KERAS),
    Mutant("keras: code in a file is not looked for", "limbeck.models.archive:read_keras", "_refuse_code(config, path)", "pass", KERAS_FILES),
    Mutant("keras: blue for red in a file", "limbeck.export.keras:_layers", "rows = keras.ops.flip(rows, axis=-1) if model.bgr else rows", "rows = rows", KERAS_FILES),
    Mutant("keras: a file has the first weights", "limbeck.models.keras:KerasNetwork.written", "variable.assign(getattr(owner, name).detach().cpu())", "pass", KERAS_FILES),
    # models from elsewhere
    Mutant("stored: a prediction is that of the row in its place", "limbeck.foreign.stored:by_number.ask", "values[rows if place is None else place[rows]]", "values[rows]", STORED),
    Mutant("stored: a part of a source is counted from its start", "limbeck.data.raw:_limited", "own=raw.keys.own[rows]", "own=raw.keys.own[: len(rows)]", STORED),
    Mutant("stored: keys that no row has are passed over", "limbeck.foreign.stored:_places", "[key for key in number if key not in known]", "[]", STORED),
    Mutant("fitted: folds are answered for by who has seen them", "limbeck.foreign.fitted:fit_estimator", "_answers(fit(rest), _some", "_answers(model, _some", TABLES),
    Mutant("tabular: trees grown after the best round count", "limbeck.foreign.tabular:_xgboost", "int(best) + 1 if best is not None else 0", "0", TABLES),
    Mutant("tabular: words begin at another input", "limbeck.foreign.tabular:_raw", "rows[:, start : start + len(column.categories)]", "rows[:, : len(column.categories)]", TABLES),
    Mutant("function: another one that answers otherwise is taken for it", "limbeck.foreign.function:from_function", 'fingerprint("function", fingerprint_tensors({"answers": seen}))', 'fingerprint("function")', STORED),
]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(MUTANTS, sys.argv[1:]))
