# ruff: noqa: E501  (one breakage, one line)
"""Breakages that the tests must notice: python tests/mutants.py [words of their names]; mutate.py makes and tries them.

One is addressed by the function it is made in, so it stays what it is while all around it changes, and when the
function moves its address alone moves with it.
"""

import sys

from mutate import Mutant, main

LOSSES = ("losses/test_losses_logit.py", "losses/test_losses_regression.py", "losses/test_losses.py")
DECOUPLED = ("losses/test_losses_decoupled.py", "losses/test_losses.py")
BATCHWISE = ("losses/test_losses_batchwise.py", "losses/test_losses.py")
PROCESSES = ("losses/test_losses_processes.py",)
RELATION = ("losses/test_losses_relation.py", "losses/test_losses.py")
MEMORY = ("losses/test_losses_contrastive.py",)
UNCERTAIN = ("losses/test_losses_gaussian.py", "losses/test_losses_multilabel.py", "losses/test_losses_ordinal.py")
FEATURE = ("losses/test_losses_feature.py",)
JOINT = ("losses/test_losses_multistage.py",)
TRANSFER = ("losses/test_losses_transfer.py",)
OBJECTIVE = ("distill/test_objective.py",)
TAPS = ("distill/test_feature_taps.py",)
TEACHERS = ("distill/test_teachers.py",)
STACKING = ("distill/test_stacking.py",)
TRAIN = ("distill/test_train.py",)
MUTUAL = ("distill/test_mutual.py",)
EVALUATE = ("evaluate/test_evaluate.py",)
AUGMENT = ("data/test_augment.py",)
DATA = ("data/test_data_dataset.py",)
RUNTIME = ("core/test_runtime.py",)
PROGRESS = ("core/test_progress.py",)
REPORT = ("report/test_report_teaching.py",)
METHODS = ("report/test_report_methods.py",)
SMALLER = ("report/test_report_compressed.py", "report/test_report_front.py")
SEVERAL = ("tasks/test_multilabel.py",)
WEIGHTS = ("tasks/test_class_weights.py",)
UNLABELLED = ("distill/test_unlabelled.py",)
STARTUP = ("test_startup.py",)
NEWROWS = ("data/test_data_tables.py",)
NEEDS = ("recipe/test_needs.py",)
STORE = ("distill/test_store.py",)
QUANTIZE = ("export/test_quantize.py",)
CACHE = ("distill/test_cache.py",)
SHRINK = ("pipeline/test_run_compress.py",)
REGRESSION = ("tasks/test_regression.py",)
TOKENS = ("tasks/test_tokens.py",)
PAIRED = ("evaluate/test_evaluate_paired.py",)
PIXELS = ("tasks/test_segmentation.py", "tasks/test_contract.py")
LAYERS = ("export/test_export_layers.py",)
PRUNE = ("compress/test_compress_prune.py",)
FACTORISE = ("compress/test_compress_factorise.py",)
SPARSIFY = ("compress/test_compress_sparsify.py",)
KERAS = ("models/test_keras.py",)
KERAS_FILES = ("export/test_keras_files.py",)
STORED = ("distill/test_external_predictions.py",)
TABLES = ("distill/test_external_tables.py",)
DOCTOR = ("distill/test_diagnose.py",)

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
    Mutant("everywhere: gradients not summed", "limbeck.losses.checks:_Everywhere.backward", "torch.distributed.all_reduce(gradient)", "pass", PROCESSES),
    Mutant("crd: negatives of the same class", "limbeck.losses.contrastive:CRD._draw", "torch.where(draw >= first[:, None], draw + (end - first)[:, None], draw)", "draw", MEMORY),
    Mutant("crd: banks exchanged", "limbeck.losses.contrastive:CRD.forward", "((v_s, self.bank_teacher), (v_t, self.bank_student))", "((v_s, self.bank_student), (v_t, self.bank_teacher))", MEMORY),
    Mutant("crd: Z of every batch", "limbeck.losses.contrastive:CRD._normalise", "torch.where(self.log_z.isnan(), found, self.log_z)", "found", MEMORY),
    Mutant("crd: classes not saved", "limbeck.losses.contrastive:CRD.__init__", "torch.full((rows,), UNSEEN))", "torch.full((rows,), UNSEEN), persistent=False)", MEMORY),
    Mutant("crd: memory of this process's rows alone", "limbeck.losses.contrastive:CRD.forward", "found = everywhere(torch.cat([v_s, v_t, torch.stack(sums, dim=1)], dim=1).detach())", "found = torch.cat([v_s, v_t, torch.stack(sums, dim=1)], dim=1).detach()", PROCESSES),
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
    Mutant("tokens: last patch left out, not the class token", "limbeck.losses.projection:_grid", "feature[:, first:]", "feature[:, : side**2]", FEATURE),
    Mutant("projectors: batch norm of a single value", "limbeck.losses.projection:Norm.forward", "x.shape[0] * x.shape[2] * x.shape[3] < 2", "False", FEATURE),
    Mutant("ofd: margin forgotten", "limbeck.losses.multistage:Ofd.forward", "torch.maximum(theirs, margin(theirs))", "theirs + 0 * margin(theirs)", JOINT),
    Mutant("ofd: margin of the last batch alone", "limbeck.losses.multistage:Margin.forward", "self.seen += count", "self.seen.copy_(count)", JOINT),
    Mutant("ofd: earlier stages count whole", "limbeck.losses.multistage:Ofd.forward", "part / 2**earlier", "part", JOINT),
    Mutant("reviewkd: shares exchanged", "limbeck.losses.multistage:ReviewKD.forward", "ours * share[:, :1] + deeper * share[:, 1:]", "ours * share[:, 1:] + deeper * share[:, :1]", JOINT),
    Mutant("reviewkd: sizes weigh alike", "limbeck.losses.multistage:_at_all_sizes", "weight /= 2", "weight /= 1", JOINT),
    Mutant("fsp: sum over pixels", "limbeck.losses.multistage:_flows", "one.transpose(1, 2) / one.shape[2]", "one.transpose(1, 2)", JOINT),
    Mutant("srrl: classifier not copied", "limbeck.losses.transfer:Srrl.__init__", "head.weight.detach().clone().float()", "head.weight.detach()", TRANSFER),
    Mutant("srrl: classifier's part forgotten", "limbeck.losses.transfer:Srrl.forward", "self.beta * F.linear", "0 * F.linear", TRANSFER),
    Mutant("simkd: last ReLU forgotten", "limbeck.losses.transfer:SimKD.__init__", "normed(narrow, wanted), nn.ReLU()", "normed(narrow, wanted)", TRANSFER),
    Mutant("losses: teacher not detached", "limbeck.losses.checks:taught", "(teacher.detach() if teacher.requires_grad else teacher)", "teacher", LOSSES),
    Mutant("losses: ignored rows counted", "limbeck.losses.checks:mean", "counted = (target != IGNORED)", "counted = (target == target)", LOSSES),
    Mutant("losses: ignored rows related", "limbeck.losses.checks:counted", "chosen = of_samples(target) != IGNORED", "chosen = target == target", BATCHWISE),
    Mutant("losses: autocast reaches products", "limbeck.losses.autocast:in_full_precision.exactly", "enabled=False", "enabled=True", BATCHWISE),
    Mutant("hard: smoothing forgotten", "limbeck.losses.logit:hard", ", label_smoothing=label_smoothing", "", LOSSES),
    Mutant("mse: sum over outputs", "limbeck.losses.regression:mse", "(student - teacher).square().mean(", "(student - teacher).square().sum(", LOSSES),
    Mutant("label_mse: absolute error", "limbeck.losses.regression:label_mse", "(student - target).square().mean(", "(student - target).abs().mean(", LOSSES),
    Mutant("label_smooth_l1: beta forgotten", "limbeck.losses.regression:label_smooth_l1", ", beta=beta)", ")", LOSSES),
    Mutant("teacher_bounded: bound reversed", "limbeck.losses.regression:teacher_bounded", "margin > of_teacher", "margin < of_teacher", LOSSES),
    Mutant("teacher_bounded: margin's sign", "limbeck.losses.regression:teacher_bounded", "of_student + margin >", "of_student - margin >", LOSSES),
    Mutant("teacher_bounded: tie counted", "limbeck.losses.regression:teacher_bounded", "margin > of_teacher", "margin >= of_teacher", LOSSES),
    Mutant("teacher_bounded: NaN hidden", "limbeck.losses.regression:teacher_bounded", "of_student, done)", "of_student, 0)", LOSSES),
    Mutant("losses: half precision kept", "limbeck.losses.checks:exact", "else student.float()", "else student", LOSSES),
    Mutant("losses: empty batch is NaN", "limbeck.losses.checks:mean", "max(rows.numel(), 1)", "rows.numel()", LOSSES),
    Mutant("losses: shapes may broadcast", "limbeck.losses.checks:measured", "if student.shape != target.shape:", "if False:", LOSSES),
    # objective
    Mutant("objective: weights ignored", "limbeck.distill.objective.objective:Objective._values", "torch.add(total, value, alpha=weight)", "total + value", OBJECTIVE),
    Mutant("objective: values weighted", "limbeck.distill.objective.objective:Objective._values", "                values[term.name] = _value(term, taught, indexed, seen, teacher, rows)\n            elif", "                values[term.name] = 3 * _value(term, taught, indexed, seen, teacher, rows)\n            elif", OBJECTIVE),
    Mutant("objective: student and teacher swapped", "limbeck.distill.objective.objective:_value", "else loss(of_student, of_teacher, batch.y)", "else loss(of_teacher, of_student, batch.y)", OBJECTIVE),
    Mutant("objective: teacher's tap ignored", "limbeck.distill.objective.objective:_value", "_select(teacher, term.teacher,", "_select(teacher, PREDICTION,", OBJECTIVE),
    Mutant("objective: watched terms learn", "limbeck.distill.objective.objective:Objective._values", "with torch.no_grad():", "with torch.enable_grad():", OBJECTIVE),
    Mutant("objective: autocast reaches the losses", "limbeck.distill.objective.objective:Objective.forward", "enabled=False", "enabled=True", OBJECTIVE),
    Mutant("objective: schedules stand still", "limbeck.distill.objective.objective:Objective._weigh", "weight.at(self._epoch, self.epochs)", "weight.at(0.0, self.epochs)", OBJECTIVE),
    Mutant("objective: options stand still", "limbeck.distill.objective.objective:Objective.pace", "ramp.at(epoch, self.epochs)", "ramp.at(0.0, self.epochs)", OBJECTIVE),
    Mutant("balance: upside down", "limbeck.distill.objective.balance:Balancer.ratios", "(logs[0] - logs[1:]).exp()", "(logs[1:] - logs[0]).exp()", OBJECTIVE),
    Mutant("balance: at the first layer", "limbeck.distill.objective.balance:Balancer._find", "range(len(self._parameters) - 1, -1, -1)", "range(len(self._parameters))", OBJECTIVE),
    Mutant("balance: never frozen", "limbeck.distill.objective.objective:Objective._values", "self._looks < BALANCE_STEPS and", "bool(self.balanced) and", OBJECTIVE),
    Mutant("balance: not restored", "limbeck.distill.objective.objective:Objective.__init__", "module._recall())", "None)", OBJECTIVE),
    Mutant("pairing: always the first stages", "limbeck.distill.objective.network_stages:pairs", "math.ceil((n + 1) * len(many) / len(few)) - 1", "n", ("distill/test_network_stages.py",)),
    Mutant("pairing: a squeeze counts as a stage", "limbeck.distill.objective.network_stages:_by_size", "for call in reversed(maps):", "for call in maps:", ("distill/test_network_stages.py",)),
    Mutant("pairing: what is overwritten is offered", "limbeck.distill.objective.network_stages:_watch", "c.output._version == c.version", "True", ("distill/test_network_stages.py",)),
    Mutant("matching: the seed forgotten", "limbeck.distill.objective.feature_matching:Matching.objective", "torch.manual_seed(seed)", "torch.manual_seed(0)", ("distill/test_feature_matching.py::test_weights_of_losses_follow_from_the_seed",)),
    Mutant("objective: losses not registered", "limbeck.distill.objective.objective:Objective.__init__", "if isinstance(term.loss, nn.Module)}", "if term.loss is None}", OBJECTIVE),
    # taps
    Mutant("taps: hooks stay", "limbeck.distill.objective.feature_taps:_remove", "handle.remove()", "handle.id", TAPS),
    Mutant("taps: the last call wins", "limbeck.distill.objective.feature_taps:_feature", "if len(calls) > 1:", "calls = calls[-1:]\n    if len(calls) > 1:", TAPS),
    Mutant("taps: features kept after a call", "limbeck.distill.objective.feature_taps:Taps.__call__", "record.open = False\n            record.seen.clear()", "record.open = False", TAPS),
    Mutant("taps: overwritten feature passes", "limbeck.distill.objective.feature_taps:_feature", "output._version != version", "output._version < version", TAPS),
    # augmentation
    Mutant("augment: the same numbers in every view", "limbeck.data.augment.draws:_start", "(seed, view, DRAWS.index(name))", "(seed, 0, DRAWS.index(name))", AUGMENT),
    Mutant("augment: numbers of the place in the batch", "limbeck.data.augment.draws:bits", "z = index * ", "z = torch.arange(len(index)) * ", AUGMENT),
    Mutant("augment: not rounded to 8 bits", "limbeck.data.augment.views:_made.images", "part.mul_(255).round_()", "part.mul_(255)", AUGMENT),
    Mutant("augment: partners of another view", "limbeck.data.augment.views:keyed.fetch", "views(partner, view)", "views(partner, view + 1)", AUGMENT),
    Mutant("augment: parameters of the first part for all", "limbeck.data.augment.images:augmented", "*(torch.split(each, step) for", "*([torch.split(each, step)[0]] * len(torch.split(each, step)) for", AUGMENT),
    Mutant("augment: what it is given is overwritten", "limbeck.data.augment.images:augment", "(part.clone(memory_format=torch.contiguous_format) for part in torch.split(x, step))", "iter(torch.split(x, step))", AUGMENT),
    # teachers
    Mutant("teacher: thawed", "limbeck.distill.teachers.frozen:Frozen.__init__", "copy.deepcopy(model).eval()", "copy.deepcopy(model).train()", TEACHERS),
    Mutant("teacher: not a copy", "limbeck.distill.teachers.frozen:Frozen.__init__", "copy.deepcopy(model)", "model", TEACHERS),
    Mutant("teacher: gradients on", "limbeck.distill.teachers.frozen:Frozen.__call__", "@torch.no_grad()", "@torch.enable_grad()", TRAIN + TEACHERS),
    Mutant("teacher: probabilities taken for logits", "limbeck.distill.teachers.frozen:Frozen.__call__", "if self.probabilities:", "if False:", TEACHERS),
    Mutant("ensemble: average of logits", "limbeck.distill.teachers.ensemble:average", "log_shares(predictions).logsumexp(dim=0) - math.log(len(predictions))", "predictions.mean(dim=0)", TEACHERS),
    Mutant("ensemble: constants of members seen", "limbeck.distill.teachers.ensemble:logits_average", "(logits - logits.mean(dim=-1, keepdim=True))", "predictions", TEACHERS),
    Mutant("ensemble: a class ruled out is infinite", "limbeck.distill.teachers.ensemble:log_shares", "torch.where(logs == -torch.inf, math.log(torch.finfo(logs.dtype).tiny), logs)", "logs", TEACHERS),
    Mutant("ensemble: RMSE for MSE", "limbeck.distill.teachers.ensemble:validation_weights", "(least / s) ** 2", "(least / s)", TEACHERS),
    Mutant("ensemble: confidence of the batch", "limbeck.distill.teachers.ensemble:by_confidence", "entr(logs.exp()).sum(dim=-1)", "entr(logs.exp()).sum(dim=-1).mean(dim=1, keepdim=True)", TEACHERS),
    Mutant("stack: on rows it was fitted on", "limbeck.distill.teachers.stacking:_plainest", "rows[~out], target[~out]", "rows, target", STACKING),
    Mutant("stack: nothing holds it back", "limbeck.distill.teachers.stacking:_answers.of_all", "penalty * torch.stack(apart).sum()", "0 * penalty * torch.stack(apart).sum()", STACKING),
    Mutant("joint: statistics not in the file", "limbeck.distill.teachers.stacking:Joint.__init__", "persistent=True", "persistent=False", STACKING),
    Mutant("disagreement: divergence reversed", "limbeck.tasks.normal_form:choices_apart", "sum(1).mean() - torch", "sum(1).mean() * 0 + torch", EVALUATE),
    # the loop
    Mutant("train: student in eval mode", "limbeck.distill.train.loop:_Loop._epoch", "learner.forward.train()", "learner.forward.eval()", TRAIN),
    Mutant("train: the same order every epoch", "limbeck.distill.train.loop:_Loop._batches", 'derive_seed(self.seed, "order", epoch)', 'derive_seed(self.seed, "order", 0)', TRAIN),
    Mutant("train: the same view every epoch", "limbeck.distill.train.loop:_Loop._batches", "if self.views else lap", "if self.views else 0", TRAIN),
    Mutant("train: views without end", "limbeck.distill.train.loop:_Loop._batches", "lap % self.views if self.views else lap", "lap", TRAIN),
    Mutant("train: dropout not seeded", "limbeck.distill.train.loop:_Loop._epoch", 'seed_everything(self.seed, "epoch", epoch, self.accelerator.process_index)', "torch.seed()", TRAIN),
    Mutant("train: parts of a batch not weighted", "limbeck.distill.train.loop:_Loop._step", "fraction * share", "share", TRAIN),
    Mutant("train: losses of parts not weighted", "limbeck.distill.train.loop:_Loop._step", "v.detach() * fraction", "v.detach()", TRAIN),
    Mutant("train: optimizer not resumed", "limbeck.distill.train.learner:Learner.restore", 'self.optimizer.load_state_dict(state["optimizer"])', "pass", TRAIN),
    Mutant("train: average not resumed", "limbeck.distill.train.learner:Learner.restore", 'self.ema.load_state_dict(state["ema"])', "pass", TRAIN),
    Mutant("train: losses' weights not resumed", "limbeck.distill.train.learner:Learner.restore", 'self.losses.load_state_dict(state["objective"])', "pass", TRAIN),
    Mutant("train: last weights sold as best", "limbeck.distill.train.learner:Learner.leave_selected", 'load_weights(self.inner, self.folder / "best.safetensors")', 'load_weights(self.inner, self.folder / "last.safetensors")', TRAIN),
    Mutant("train: NaN goes on", "limbeck.distill.train.tally:Tally.settle", "if not len(bad):", "if True:", TRAIN),
    Mutant("train: NaN told at another step", "limbeck.distill.train.tally:Tally.settle", "len(self._rows) - len(totals) + int(bad[0])", "int(bad[0])", TRAIN),
    Mutant("train: losses not weighted by rows", "limbeck.distill.train.tally:Tally.sums", "(table * rows[:, None])", "(table * rows.mean())", TRAIN),
    Mutant("train: gradients not clipped", "limbeck.distill.train.learner:Learner.step", "if self.plan.clip_norm:", "if False:", TRAIN),
    Mutant("train: cosine at half speed", "limbeck.distill.train.schedule:learning_rate", "math.cos(math.pi * since / span)", "math.cos(math.pi * since / span / 2)", TRAIN),
    Mutant("train: chosen on the test split", "limbeck.distill.train.learner:Learner.validate", "self.shown, data, data.val,", "self.shown, data, data.test,", TRAIN),
    # peers
    Mutant("mutual: a peer learns from itself", "limbeck.distill.train.loop:fit_mutual.losses", " if place != n]", "]", MUTUAL),
    Mutant("mutual: others not taken as constants", "limbeck.distill.train.loop:_constant", "Output(output.prediction.detach(),", "Output(output.prediction,", MUTUAL),
    Mutant("mutual: sum over the other peers", "limbeck.distill.train.loop:_mean", "for values in losses]).mean() for name", "for values in losses]).sum() for name", MUTUAL),
    Mutant("mutual: stops with the first out of patience", "limbeck.distill.train.loop:_Loop.run", "if all(learner.out_of_patience", "if any(learner.out_of_patience", MUTUAL),
    Mutant("mutual: loss scale forgotten", "limbeck.distill.train.loop:_Loop._resume", 'self.accelerator.scaler.load_state_dict(state["scaler"])', "pass", MUTUAL),
    Mutant("train: scaled gradients clipped", "limbeck.distill.train.learner:Learner.step", "scaler.unscale_(self.optimizer)", "pass", MUTUAL),
    Mutant("mutual: another peer named for the NaN", "limbeck.distill.train.loop:_Loop._refuse_nonfinite", "min(bad, key=lambda one: one[0])", "bad[0]", MUTUAL),
    Mutant("mutual: first peer resumed for all", "limbeck.distill.train.loop:_Loop._resume", "learner.restore(own)", 'learner.restore(state["networks"][0])', MUTUAL),
    # what is made of it
    Mutant("compare: errors taken for scores", "limbeck.core.statistics:compare", "sign = 1.0 if higher_is_better else -1.0", "sign = 1.0", EVALUATE),
    Mutant("compare: seeds not paired", "limbeck.core.statistics:compare", "for s, d in zip(student, distilled, strict=True)", "for s, d in zip(sorted(student), sorted(distilled), strict=True)", EVALUATE),
    Mutant("interval: normal, not Student", "limbeck.core.statistics:interval", "float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))", "1.96", EVALUATE),
    Mutant("p-value: one side only", "limbeck.core.statistics:p_value", "return 2 * float(stdtr", "return float(stdtr", EVALUATE),
    Mutant("holm: every p-value multiplied alike", "limbeck.core.statistics:holm", "(len(p_values) - rank) * p_values[i]", "len(p_values) * p_values[i]", EVALUATE),
    Mutant("holm: smaller than one before it", "limbeck.core.statistics:holm", "least = max(least, min(", "least = max(0.0, min(", EVALUATE),
    Mutant("predict: in training mode", "limbeck.evaluate.scores:predict", "model.eval()", "model.train()", EVALUATE),
    Mutant("batches: rows lost", "limbeck.data.dataset:parts", "range(0, len(rows), size)", "range(0, len(rows) - size + 1, size)", DATA),
    Mutant("batches: row numbers of the batch, not the data", "limbeck.data.dataset:fetcher.fetch", "rows.to(device), view)", "torch.arange(len(rows)).to(device), view)", DATA),
    Mutant("scaling: the logarithm is not undone", "limbeck.core.scaling:Scaling.restore", "return own.maximum(low).minimum(high).exp()", "return own.maximum(low).minimum(high)", REGRESSION),
    Mutant("metrics: outputs compared in mixed units", "limbeck.tasks.regression:metrics", "(learned[0] - learned[1]).square()", "(centre - true).square()", REGRESSION),
    Mutant("cards: inputs one place off", "limbeck.export.card:_table", "range(place, place + len(column.inputs))", "range(place + 1, place + 1 + len(column.inputs))", REGRESSION),
    Mutant("page: residuals of the true value", "limbeck.report.values:_residuals", "p / t if logs else p - t", "p / t if logs else t - p", REGRESSION),
    Mutant("metrics: padding counts", "limbeck.tasks.normal_form:counted", "return values[target.to(values.device) != IGNORED]", "return values[target.to(values.device) != IGNORED - 1]", TOKENS),
    Mutant("training: parts weighted by rows, not tokens", "limbeck.distill.train.loop:_split", "int((piece.y != IGNORED).sum())) for piece, _ in pieces", "len(piece.index)) for piece, _ in pieces", TOKENS),
    Mutant("training: batches weighted by rows, not tokens", "limbeck.data.dataset:count_labels", ".sum()) if data.places else len(rows)", ".sum()) if not data else len(rows)", TOKENS),
    Mutant("scaling: measured on all rows", "limbeck.data.dataset:measure", "chunks = torch.split(rows, step)", "chunks = torch.split(torch.arange(len(x)), step)", DATA),
    Mutant("files: written in place", "limbeck.core.files:write_atomic", "write(part)", "write(path) or write(part)", RUNTIME),
    # the report
    Mutant("report: seeds of a generation not told apart from another's", "limbeck.report.roles:named", 'f"generation {number}") if number', '"generation") if number', REPORT),
    Mutant("report: size of a store counted at every opening", "limbeck.report.stored:stored", "for key in keys)", 'for key in (o["key"] for o in group))', REPORT),
    Mutant("report: intervals of the ensemble's students forgotten", "limbeck.report.scores:members", "reach or (mean, mean), name", "(mean, mean), name", REPORT),
    Mutant("report: verdicts of methods not corrected", "limbeck.report.methods:methods", 'adjusted = holm([p_value(entry.gain.values) for entry in entries])', 'adjusted = [p_value(entry.gain.values) for entry in entries]', METHODS),
    Mutant("report: methods in the order of the recipe", "limbeck.report.methods:methods", "sorted(found, key=lambda method: -method.mean)", "found", METHODS),
    Mutant("report: compared students among the curves", "limbeck.report.figures:_runs", "if name not in left_out}", "}", METHODS),
    Mutant("report: options of a loss that are 0 not told", "limbeck.report.words:_term", "and value is not None:", "and value:", METHODS),
    Mutant("report: every comparison on an axis of its own", "limbeck.report:_plots", "figures.gains(other, ends)", "figures.gains(other)", REPORT),
    Mutant("report: int8 praised where it is slower", "limbeck.report.files:no_faster", "if by > NOISE]", "if by < -NOISE]", SMALLER),
    Mutant("report: a front with points that others beat", "limbeck.report.pareto:front", "gain(best[-1].score, point.score) > 0:", "gain(best[-1].score, point.score) >= 0:", SMALLER),
    Mutant("report: recovery alone shown with the teacher's score", "limbeck.report.smaller:_variant", 'alone = _level(metric, taught.student)', 'alone = _level(metric, taught.distilled)', SMALLER),
    Mutant("report: trials outside the budget before those within", "limbeck.report.budget:ranked", 'key=lambda t: (not t.within, t.value)', 'key=lambda t: t.size_kb', SMALLER),
    Mutant("report: shares of another runtime's float file", "limbeck.report.files:made", 'else plain.get(m.format))', "else next(iter(plain.values()), None))", SMALLER),
    # smaller students in a run
    Mutant("shrink: what recovers alone asks the teacher", "limbeck.pipeline.compress:compress_student", 'run_steps(job, variant, start, None, "compressed-alone")', 'run_steps(job, variant, start, teacher, "compressed-alone")', SHRINK),
    Mutant("shrink: zeros are let go before training", "limbeck.pipeline.compress:_recovered", "zeros = compress.keep_zeros(network, edits)", "(zeros := compress.keep_zeros(network, edits)).remove()", SHRINK),
    Mutant("shrink: every round takes the whole ratio", "limbeck.pipeline.compress:_prune", "ratio=1 - (1 - then) / (1 - done)", "ratio=share", SHRINK),
    Mutant("paired: the drop that is allowed is not", "limbeck.evaluate.paired:loss", "_exceeds(lost - allowed, seed)", "_exceeds(lost, seed)", PAIRED),
    Mutant("paired: the smaller and the larger model swapped", "limbeck.evaluate.paired:loss", "lost = scores[0] - scores[1]", "lost = scores[1] - scores[0]", PAIRED),
    Mutant("stages: what was done for another key is kept", "limbeck.pipeline.stages:Stages.alone", "(renew or nothing)", "nothing", SHRINK),
    # several labels, rare classes, rows without a label
    Mutant("labels: probability of the logits' mean", "limbeck.distill.teachers.ensemble:answers_average", "_log_odds(log_answers(predictions).logsumexp(dim=1))", "predictions.mean(dim=0)", SEVERAL),
    Mutant("labels: ties are ranked", "limbeck.tasks.multilabel:average_precision", "scores[order].diff() != 0", "scores[order].diff() != -1", SEVERAL),
    Mutant("labels: yes to everything taken for probabilities", "limbeck.models.logits:gives_answers", " and (rows < 0.5).any()", "", SEVERAL),
    Mutant("labels: rare sets are not stratified", "limbeck.data.multilabel:strata", "found[few] = -1 - rarest[few]", "found[few] = -1", SEVERAL),
    Mutant("class weights: of all rows, not of those learned from", "limbeck.data.class_weights:class_weights", "class_counts(data, data.train)", "class_counts(data, torch.arange(len(data.y)))", WEIGHTS),
    Mutant("class weights: given ones not scaled", "limbeck.data.class_weights:class_weights", "given * rows / given.dot(counts)", "given", WEIGHTS),
    Mutant("class weights: the student alone without", "limbeck.pipeline.objectives:alone", "own_options(term, plan, job.data.task.weights)", "own_options(term, plan)", WEIGHTS),
    Mutant("balanced accuracy: judged by rows", "limbeck.tasks.classification:row_scores", "if task.weights:", "if False:", WEIGHTS),
    Mutant("unlabelled: few labels in a batch count in full", "limbeck.distill.objective.objective:_labelled", "len(kept.index) / (len(rows) * share)", "1.0", UNLABELLED),
    Mutant("unlabelled: tested rows are learned from", "limbeck.data.prepare:_unlabelled", "digest not in seen", "True", UNLABELLED),
    Mutant("unlabelled: the student alone has fewer steps", "limbeck.data.dataset:again", "return torch.cat(laps)[:wanted]", "return torch.cat(laps)[:count]", UNLABELLED),
    Mutant("unlabelled: partners of the other kind", "limbeck.data.augment.views:keyed.fetch", "torch.where(torch.isin(index.to(rows.device), unlabelled), theirs, partner)", "partner", UNLABELLED),
    # a class for each pixel
    Mutant("pixels: what two classes share counts twice", "limbeck.tasks.segmentation:_overlap", " - confusion[n][n]", "", PIXELS),
    Mutant("pixels: drawn one by one", "limbeck.tasks.segmentation:drawn_scores", "(true + guessed).clamp_max(1)", "(true + guessed)", PIXELS),
    Mutant("pixels: without a label they are said to be background", "limbeck.tasks.segmentation:drawn_scores", "logits.argmax(-1), IGNORED)", "logits.argmax(-1), 0)", PIXELS),
    Mutant("masks: turned by mixing classes", "limbeck.data.augment.images:moved", ', "nearest").long()', ', "bilinear").long()', PIXELS),
    Mutant("masks: left where they were", "limbeck.data.augment.views:keyed.fetch", "y = moved(y, seed, index, view, spec)", "y = y.clone()", PIXELS),
    Mutant("masks: resized from the corner", "limbeck.data.sources.masks:_read", "(np.arange(size) + 0.5)", "np.arange(size)", PIXELS),
    Mutant("masks: two images write one", "limbeck.core.pictures:write_mask", "if path.exists():", "if False:", PIXELS),
    Mutant("pixels: images without labels count in losses of features", "limbeck.losses.checks:of_samples", "torch.where((target != IGNORED).flatten(1).any(1), 0, IGNORED)", "target.flatten(1)[:, 0] * 0", PIXELS),
    Mutant("pixels: logits taken for tokens of features", "limbeck.distill.objective.objective:_one", "classes_first(output.prediction) if maps else", "", PIXELS),
    Mutant("pixels: the rest shared by rows", "limbeck.distill.cache.codec:decode", "math.log(width - values.shape[-1])", "math.log(width - values.shape[1])", PIXELS),
    # the search
    Mutant("tune: a search that goes on draws other trials", "limbeck.pipeline.tune.search:following", 'TPESampler(seed=derive_seed("tune", number) % 2**32)', "TPESampler()", ("pipeline/test_tune.py::test_ctrl_c_keeps_the_trials_and_the_same_command_goes_on",)),
    Mutant("tune: an interrupted trial is left behind", "limbeck.pipeline.tune.search:following", "if trial.state == TrialState.RUNNING]", "if trial.state == TrialState.PRUNED]", ("pipeline/test_tune.py::test_ctrl_c_keeps_the_trials_and_the_same_command_goes_on",)),
    Mutant("tune: terms of labels are lost", "limbeck.pipeline.tune.space:terms", "return {**labels, candidate.term", "return {candidate.term", ("pipeline/test_tune.py::test_what_is_found_or_moves_in_the_recipe_begins_at_its_published_number",)),
    Mutant("tune: the largest error is the best", "limbeck.pipeline.tune:_written", "ranked(trials, higher=setting.higher)", "ranked(trials, higher=True)", ("pipeline/test_tune.py::test_values_are_searched_too_and_less_error_is_better",)),
    Mutant("tune: a full disk counts as a failed trial", "limbeck.pipeline.tune:_tried", "except DivergedError as error:", "except UserError as error:", ("pipeline/test_tune.py::test_what_else_goes_wrong_in_a_training_ends_the_search_and_the_trial_is_made_again",)),
    # compress
    Mutant("compress: layer norms lose their order", "limbeck.compress.channel_groups:_layer_norm_pruner.InOrder.prune_out_channels", "kept = sorted(set(range(shape[dim])) - set(idxs))", "kept = list(set(range(shape[dim])) - set(idxs))", PRUNE),
    Mutant("compress: the caller's network pruned", "limbeck.compress.prune:plan_prune", "own = copy.deepcopy(model)", "own = model", PRUNE),
    Mutant("compress: the most important channels go", "limbeck.compress.prune:_history", "scores[n].argsort(stable=True)[:gone]", "scores[n].argsort(stable=True)[-gone:]", PRUNE),
    Mutant("compress: batches cancel in taylor", "limbeck.compress.prune:_scores", "_by_unit(group, _change, reading=True).square()", "_by_unit(group, _change, reading=True)", PRUNE),
    Mutant("compress: heads not whole", "limbeck.compress.channel_groups:_group", "width = attention.head_dim", "width = 1", PRUNE),
    Mutant("compress: number of heads forgotten", "limbeck.compress.channel_groups:cut", "module.num_heads = module.proj.in_features // module.head_dim", "pass", PRUNE),
    Mutant("compress: torch's heads cut unevenly", "limbeck.compress.channel_groups:_divisions", "return int(module.num_heads)", "return 1", PRUNE),
    Mutant("compress: cap forgotten", "limbeck.compress.prune:_fewest", "allowed = math.ceil(round((1 - cap) * count, 6) / group.step) * group.step", "allowed = 0", PRUNE),
    Mutant("compress: timm's widths forgotten", "limbeck.compress.prune:apply_prune", 'correct(network, before, shapes(network, tuple(edit.shape)))', "pass", PRUNE),
    Mutant("compress: spatial factors both vertical", "limbeck.compress.ranks:spatial_svd", '"padding": _axis(layer.padding, 1)', '"padding": _axis(layer.padding, 0)', FACTORISE),
    Mutant("compress: bias twice", "limbeck.compress.ranks:channel_svd", "_conv(first, None, layer, **same), _conv(second, layer.bias, layer))", "_conv(first, layer.bias[: len(first)] if layer.bias is not None else None, layer, **same), _conv(second, layer.bias, layer))", FACTORISE),
    Mutant("compress: energy of values, not squares", "limbeck.compress.ranks:energy_rank", "values.square().cumsum(0) / values.square().sum()", "values.cumsum(0) / values.sum()", FACTORISE),
    Mutant("compress: one sweep of Tucker on the wrong side", "limbeck.compress.ranks:tucker2", '"oihw,or->irhw", weight, u_out', '"oihw,or->irhw", weight, u_out * 0 + 1', FACTORISE),
    Mutant("compress: factors that save nothing", "limbeck.compress.low_rank:_saves", "return fewer and _macs([*factors], x) < _macs([own], x)", "return fewer", FACTORISE),
    Mutant("compress: time not asked", "limbeck.compress.low_rank:plan_factorise.worth", "return faster is None or faster(", "return True or faster(", FACTORISE),
    Mutant("compress: fused transformer path taken", "limbeck.compress.low_rank:apply_factorise", "modules[parent].activation_relu_or_gelu = 0", "pass", FACTORISE),
    Mutant("compress: zeros learn", "limbeck.compress.sparsify:_masking.masked", "gradient.masked_fill(~mask.to(gradient.device), 0)", "gradient", SPARSIFY),
    Mutant("compress: fours along the outputs", "limbeck.compress.sparsify:_two_of_four", "last = weight.movedim(1, -1)", "last = weight.movedim(0, -1)", SPARSIFY),
    # the doctor
    Mutant("doctor: an order judged by its own rows", "limbeck.distill.teachers.diagnose.alignment:Orders.hits", "torch.where(self.half, self.second[truth], self.first[truth])", "torch.where(self.half, self.first[truth], self.second[truth])", DOCTOR),
    Mutant("doctor: whatever is better is believed", "limbeck.distill.teachers.diagnose.inputs:misfit", "if best - own >= MARGIN and best >= _needed(data, rows, given) and chance < SURE:", "if best - own >= MARGIN:", DOCTOR),
    Mutant("doctor: any sure teacher ends in two softmaxes", "limbeck.distill.teachers.diagnose.outputs:softmax", "twice = bool((shares >= -1e-3).all()) and", "twice =", DOCTOR),
    Mutant("doctor: answers in other company compared with other rows'", "limbeck.distill.teachers.diagnose.steadiness:steadiness", "batch_size=24)[order.argsort()]", "batch_size=24)", DOCTOR),
    Mutant("doctor: a run does not look at what is brought along", "limbeck.pipeline.train_teachers:train_teacher", "None if spec.train else spec)", "None)", ("pipeline/test_run_doctor.py::test_a_run_says_the_same_before_anybody_learns",)),
    Mutant("forecast: one student whatever the seeds", "limbeck.pipeline.outline:_everything", "for seed in checked.seeds:", "for seed in checked.seeds[:1]:", ("pipeline/test_run_doctor.py::test_every_training_is_counted",)),
    Mutant("forecast: libraries for every file", "limbeck.pipeline.expected:importing", "for form in forms)", "for form in [file_format(name).form for names in shipped for name in names])", ("pipeline/test_run_doctor.py::test_libraries_are_counted_once_however_many_files_there_are",)),
    Mutant("forecast: peers train for nothing", "limbeck.pipeline.forecast:_training_seconds", "one.count * one.plan.epochs * epoch", "one.plan.epochs * epoch", ("pipeline/test_run_doctor.py::test_peers_take_the_time_of_as_many_trainings",)),
    # the progress
    Mutant("progress: steps of an earlier run set the pace", "limbeck.core.course:Course.skip", "self._now.done = done", "self.reach(done)", PROGRESS),
    Mutant("progress: the first step sets the pace", "limbeck.core.course:Course.reach", "worked >= 1 or", "worked > 0 or", PROGRESS),
    Mutant("progress: a pace is believed at once", "limbeck.core.course:Course.reach", " and (now.known is None or done >= SHARE * self.work)", "", PROGRESS),
    Mutant("progress: what was done before is done again", "limbeck.core.course:Course.left", " if part.name not in self._over", "", PROGRESS),
    Mutant("progress: what is not known is nothing", "limbeck.core.course:Course.left", "if len(known) == len(parts) else None", "", PROGRESS),
    Mutant("log: kept until there is enough of it", "limbeck.core.progress:Progress.kept", "log.open(\"ab\", buffering=0)", "log.open(\"ab\")", PROGRESS),
    Mutant("log: the last run alone", "limbeck.core.progress:Progress.kept", "\"ab\"", "\"wb\"", PROGRESS),
    # the command line
    Mutant("start-up: every installed package searched", "limbeck.cli:main", 'os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")', "pass", STARTUP),
    Mutant("start-up: help reads recipes", "limbeck.cli:main", "words = [", "import limbeck.recipe\n    words = [", STARTUP),
    Mutant("start-up: a page waits for torch", "limbeck.report", "from limbeck.core.statistics import interval", "from limbeck.evaluate import interval", STARTUP),
    Mutant("start-up: a prediction waits for torch", "limbeck.export.predict", "from limbeck.core.readers.tables import", "from limbeck.data import", STARTUP),
    Mutant("needs: a column that there is not", "limbeck.recipe.needs.lacking:_data", "if column not in names:", "if False:", NEEDS),
    Mutant("needs: a fallback is no help", "limbeck.recipe.needs.lacking:_data", "if spec.fallback is None or spec.fallback == spec.source:", "if True:", NEEDS),
    Mutant("needs: what is trained begins anew", "limbeck.recipe.needs.lacking:_trained", "return any(path.exists() for path in done)", "return False", NEEDS),
    Mutant("needs: files of ones own recipe may be elsewhere", "limbeck.recipe.needs.lacking:check", "if not (one.file and elsewhere)]", "if not one.file]", NEEDS),
    Mutant("needs: quantizers are not looked for", "limbeck.recipe.needs.lacking:_libraries", "check_quantizer if", "check_format if", NEEDS),
    Mutant("needs: whatever is cached will do", "limbeck.recipe.needs.weights:_of_timm", "return None if _cached(published.hub, files) else", "return None if files else", NEEDS),
    Mutant("needs: a hub that answers with an error is none", "limbeck.recipe.needs.weights:_answers", "except (HTTPError, HTTPException):\n        return True", "except (HTTPError, HTTPException):\n        return False", NEEDS),
    Mutant("needs: the first weights rather than those that are marked", "limbeck.recipe.needs.catalogue:weights_of", "if key == model or key.endswith(\"*\")), next(iter(there), \"\"))", "if False), next(iter(there), \"\"))", NEEDS),
    Mutant("needs: former names of models are forgotten", "limbeck.recipe.needs.catalogue:_models", "(*_MODEL.findall(text), *dict(_old_names(text)))", "_MODEL.findall(text)", NEEDS),
    Mutant("tables: the mark before a text is part of a column's name", "limbeck.core.readers.tables:_opened", 'path.open(encoding="utf-8-sig"', 'path.open(encoding="utf-8"', NEWROWS),
    Mutant("tables: the rows' own names taken for a column", "limbeck.core.readers.tables:_blocks_of_words", "skipped = max(0, len(first or ()) - len(names))", "skipped = 0", NEWROWS),
    Mutant("tables: a block of rows ends the table", "limbeck.core.readers.tables:_blocks_of_words", "if len(rows) < BLOCK:", "if rows:", NEWROWS),
    # export
    Mutant("export: a graph stays while its weights are replaced", "limbeck.export.files:put", "zip(reversed(source), reversed(target), strict=True)", "zip(source, target, strict=True)", ("export/test_export_workers.py::test_a_stop_between_two_files_leaves_none_that_looks_whole",)),
    Mutant("export: bytes are cut off, not rounded", "limbeck.export.interface:as_given", "np.rint(rows * 255)", "(rows * 255)", ("export/test_export_workers.py::test_tables_have_no_layout",)),
    Mutant("export: the reason is that of the last error", "limbeck.export.logs:cause", "while error.__cause__ is not None:", "while False:", ("export/test_export_workers.py::test_a_failure_tells_its_reason",)),
    Mutant("export: memory with the runtime in it", "limbeck.export.runtime:serve", "else peak - empty", "else peak", ("export/test_serving.py::test_memory_is_that_of_the_file_and_not_of_the_runtime_or_the_parent",)),
    Mutant("export: a dead runtime is asked for ever", "limbeck.export.process:receive", "return (content, np.frombuffer(data, dtype).reshape(shape)) if len(data) == size else None", "return content, np.frombuffer(data, dtype).reshape(shape)", ("export/test_serving.py::test_messages_keep_arrays_as_they_are",)),
    Mutant("export: what is folded away counts as wrong", "limbeck.export.layers:_first_wrong", "right[node] = same or any(", "right[node] = same and any(", LAYERS),
    Mutant("export: the last wrong layer is named", "limbeck.export.layers:_first_wrong", "(node for node in graph.graph.nodes if", "(node for node in reversed(graph.graph.nodes) if", LAYERS),
    # quantize
    Mutant("quantize: calibration rows not balanced", "limbeck.export.quantize.calibration:calibration", "turn[own] = np.arange(len(own))", "turn[own] = 0", QUANTIZE),
    Mutant("quantize: NaN rows measured", "limbeck.export.quantize.calibration:check_rows", 'if rows.dtype.kind == "f" and not np.isfinite(rows).all():', "if False:", QUANTIZE),
    Mutant("quantize: noise of the input blamed on the layer", "limbeck.export.quantize.layer_errors:ranked", "added = max(out - before,", "added = max(out,", QUANTIZE),
    Mutant("quantize: more layers left in float than needed", "limbeck.export.quantize.post_training:within", "while enough - too_few > 1:", "while enough - too_few > 2:", QUANTIZE),
    Mutant("quantize: unsigned zero points off by one", "limbeck.export.formats.onnx.quantize:_unsigned_activations", "zero.astype(np.int16) + 128", "zero.astype(np.int16) + 127", QUANTIZE),
    # Keras
    Mutant("keras: always in evaluation mode", "limbeck.models.keras.network:KerasNetwork.forward", "given: Tensor = self._graph.model(x, training=self.training)", "given: Tensor = self._graph.model(x, training=False)", KERAS),
    Mutant("keras: statistics of batch norm are forgotten", "limbeck.models.keras.network:KerasNetwork.forward", "if name in owner._buffers:", "if False:", KERAS),
    Mutant("keras: the softmax stays away from the model", "limbeck.models.keras.network:_Graph.opened", "self._closing.activation = before", "pass", KERAS),
    Mutant("keras: first weights follow no seed", "limbeck.models.keras.backend:making", "random.seed(int(torch.randint(2**62, ())))", "random.seed()", KERAS),
    Mutant("keras: a twin's pool is not padded", "limbeck.models.keras.reference:conv_leaky", 'layers.MaxPooling2D(2, strides=1, padding="same"', 'layers.MaxPooling2D(2, strides=1, padding="valid"', KERAS),
    Mutant("keras: code in a file is not looked for", "limbeck.models.keras.archive:read_keras", "_refuse_code(config, path)", "pass", KERAS_FILES),
    Mutant("keras: blue for red in a file", "limbeck.export.formats.keras.convert:_layers", "rows = keras.ops.flip(rows, axis=-1) if model.bgr else rows", "rows = rows", KERAS_FILES),
    Mutant("keras: a file has the first weights", "limbeck.models.keras.network:KerasNetwork.written", "variable.assign(getattr(owner, name).detach().cpu())", "pass", KERAS_FILES),
    # models from elsewhere
    Mutant("stored: a prediction is that of the row in its place", "limbeck.distill.teachers.external.predictions:by_number.ask", "values[rows if place is None else place[rows]]", "values[rows]", STORED),
    Mutant("stored: a part of a source is counted from its start", "limbeck.data.prepare:_limited", "own=raw.keys.own[rows]", "own=raw.keys.own[: len(rows)]", STORED),
    Mutant("stored: keys that no row has are passed over", "limbeck.distill.teachers.external.predictions:_places", "[key for key in number if key not in known]", "[]", STORED),
    Mutant("fitted: folds are answered for by who has seen them", "limbeck.distill.teachers.external.estimators:fit_estimator", "_answers(fit(rest), _some", "_answers(model, _some", TABLES),
    Mutant("tabular: trees grown after the best round count", "limbeck.distill.teachers.external.tree_files:_xgboost", "int(best) + 1 if best is not None else 0", "0", TABLES),
    Mutant("tabular: words begin at another input", "limbeck.distill.teachers.external.tree_files:_raw", "rows[:, start : start + len(column.categories)]", "rows[:, : len(column.categories)]", TABLES),
    Mutant("function: another one that answers otherwise is taken for it", "limbeck.distill.teachers.external.function:from_function", 'fingerprint("function", fingerprint_tensors({"answers": seen}))', 'fingerprint("function")', STORED),
    Mutant("measure: a quantized network's time stands for that of its start", "limbeck.pipeline.measure:_build", 'row.role == "teacher", variant', 'row.role == "teacher", ""', ("pipeline/test_measure.py",)),
    Mutant("stages: names that differ in capitals alone", "limbeck.recipe.stages:clash", "name.casefold()", "name", ("recipe/test_recipe.py::test_no_two_stages_have_the_same_name",)),
    Mutant("stages: what recovers alone may have another's name", "limbeck.recipe.schema:Recipe.stage_names", "for taught in (True, False)", "for taught in (True,)", ("recipe/test_recipe.py::test_no_two_stages_have_the_same_name",)),
    Mutant("metrics: an error counts as a score", "limbeck.core.metrics:Metric.sign", "1 if self.higher else -1", "1", ("evaluate/test_evaluate.py::test_a_metric_knows_which_way_it_goes",)),
    Mutant("results: numbers in names are not read", "limbeck.core.result:_migrated", 'known.setdefault("number", int(match[1]))', 'known.setdefault("number", None)', ("core/test_result.py",)),
    Mutant("results: a newer one is taken for one's own", "limbeck.core.result:parse_result", 'content["schema"] > SCHEMA', 'content["schema"] > 99', ("core/test_result.py",)),
]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(MUTANTS, sys.argv[1:]))
