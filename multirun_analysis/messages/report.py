"""Texts of the page and the terminal in English and Chinese; ``||`` parts a singular and a plural (value ``n``)."""

from __future__ import annotations

TEXTS = {
    # joining
    "list.comma": (", ", "、"),
    "list.and": (" and ", "和"),
    # the result in one sentence, and the effort
    "base.name": ("base (no adapter)", "基座（无适配器）"),
    "base.short": ("base", "基座"),
    "headline.best": ("Best: {name}: CER {cer}", "最佳：{name}，CER {cer}"),
    "headline.one": ("One setting: {name}: CER {cer}", "单一设置：{name}，CER {cer}"),
    "headline.no_base": (
        "{said}. The zero-shot base was not scored under this decoding, so the gain over it is unknown.",
        "{said}。零样本基座未在此解码设置下评分，因此相对它的改进未知。",
    ),
    "headline.base": ("{said}, base {base}, {gain}.", "{said}，基座 {base}，{gain}。"),
    "gain.none": ("no change", "没有变化"),
    "gain.worse": ("worse: the base makes no error", "变差，因为基座没有错误"),
    "gain.reduction": ("a relative reduction of {share}", "相对降低 {share}"),
    "gain.increase": ("a relative increase of {share}", "相对升高 {share}"),
    "points.of": ("{n} percentage points", "{n} 个百分点"),
    "points.under": ("less than {least} percentage points", "不到 {least} 个百分点"),
    "effort.finished": ("{n} trial finished||{n} trials finished", "{n} 个试验已完成"),
    "effort.failed": ("{n} failed", "{n} 个失败"),
    "effort.unfinished": ("{n} unfinished", "{n} 个未完成"),
    "effort.not_begun": ("{n} not started", "{n} 个未开始"),
    "effort.adapters": ("{n} adapter||{n} adapters", "{n} 个适配器"),
    "effort.trained": ("{n} trained in {time}", "{n} 个训练用时 {time}"),
    "effort.all_reused": ("all from the store", "全部取自存储"),
    "effort.reused": ("{n} from the store", "{n} 个取自存储"),
    "effort.shared": (
        "without sharing there would have been {n} training||without sharing there would have been {n} trainings",
        "若不共享则需训练 {n} 次",
    ),
    "effort.join": ("; ", "；"),
    "effort.end": (".", "。"),
    # the head of the page
    "page.title": ("Sweep {name}", "参数扫描 {name}"),
    "page.kicker": ("Sweep {name} · {created}", "参数扫描 {name} · {created}"),
    "page.contents": ("Sections", "目录"),
    "page.noscript": ("Charts need JavaScript; the tables have their figures.", "图表需要 JavaScript；其数字见各表。"),
    "tile.best": ("best CER", "最佳 CER"),
    "tile.interval": ("95 %: {low} to {high}", "95 %：{low} 至 {high}"),
    "tile.base": ("base CER", "基座 CER"),
    "tile.normalised": ("best, normalised", "最佳，规范化后"),
    "tile.exact": ("exact sentences", "完全正确的句子"),
    "tile.references": ("references", "参考文本"),
    "tile.recordings": ("in {n} recording||in {n} recordings", "来自 {n} 段录音"),
    "watch.live": (
        "The sweep is running: this page reloads itself every {seconds} s.",
        "扫描正在运行：本页每 {seconds} 秒自动刷新。",
    ),
    "watch.waiting": ("Waiting for the first finished trial", "正在等待第一个完成的试验"),
    "watch.counts": ("{running} running, {failed} failed.", "{running} 个运行中，{failed} 个失败。"),
    "watch.to_come": (
        "{running} running, {failed} failed, {waiting} waiting for their adapters.",
        "{running} 个运行中，{failed} 个失败，{waiting} 个在等待适配器。",
    ),
    "watch.dead": ("The sweep ended before any trial finished", "扫描在有试验完成之前就结束了"),
    # what the statistics say
    "verdict.title": ("Which trial to take", "该选哪个试验"),
    "verdict.only": ("There is one finished trial and nothing to compare it with.", "只有一个完成的试验，无从比较。"),
    "verdict.alone": (
        "Recommended: {name}, the best. The other trial is significantly worse.||"
        "Recommended: {name}, the best. All {n} other trials are significantly worse.",
        "推荐：{name}，即最佳。其余 {n} 个试验显著更差。",
    ),
    "verdict.best_is_cheapest": (
        "Recommended: {name}, the best. One other trial ties with it and is no cheaper.||"
        "Recommended: {name}, the best. {n} other trials tie with it, and none is cheaper.",
        "推荐：{name}，即最佳。另有 {n} 个试验与它并列，且都不比它便宜。",
    ),
    "verdict.cheapest": (
        "Recommended: {name} (CER {cer}), the cheapest of the {group} trials that tie for the best.",
        "推荐：{name}（CER {cer}），即并列最佳的 {group} 个试验中最便宜的一个。",
    ),
    "verdict.too_few_recordings": (
        "Recommended: {name}, the best. The evaluation set has {n} recording, too few for intervals and tests.||"
        "Recommended: {name}, the best. The evaluation set has {n} recordings, too few for intervals and tests.",
        "推荐：{name}，即最佳。评测集只有 {n} 段录音，不足以给出区间和检验。",
    ),
    "verdict.no_utterances": (
        "Recommended: {name}, the best. The trials' utterances.jsonl cannot be compared, so it is unknown whether "
        "others tie with it.",
        "推荐：{name}，即最佳。各试验的 utterances.jsonl 无法比较，是否有试验与它并列未知。",
    ),
    "verdict.method": (
        "Two trials count as different at p < 0.05 (matched pairs over recordings). Intervals: bootstrap over "
        "{recordings} recordings ({resamples} resamples), because the segments of one recording are not independent.||"
        "Two trials count as different at p < 0.05 (matched pairs over recordings, Holm's correction over {n} pairs). "
        "Intervals: bootstrap over {recordings} recordings ({resamples} resamples), because the segments of one "
        "recording are not independent.",
        "p < 0.05 时两个试验视为不同（以录音为单位的配对检验，对 {n} 对做 Holm 校正）。区间：对 {recordings} "
        "段录音的自助法（{resamples} 次重抽样），因为同一录音的片段并不独立。",
    ),
    "verdict.needed": (
        "To separate {first} from {second} at 95 % with power {power}, about {utterances} utterances in {recordings} "
        "recordings are needed; there are {have_utterances} in {have_recordings}.",
        "要以 95 % 的置信度和 {power} 的检验功效区分 {first} 与 {second}，约需 {recordings} 段录音中的 {utterances} "
        "条语句；现有 {have_recordings} 段录音中的 {have_utterances} 条。",
    ),
    "verdict.needed_never": (
        "{first} and {second} make equally many errors: no evaluation set would separate them.",
        "{first} 与 {second} 的错误一样多：任何评测集都无法区分它们。",
    ),
    "verdict.needed_beyond": (
        "{first} and {second} are equal for all practical purposes: their CERs differ by {difference}, and separating "
        "them would take more than {most} utterances.",
        "{first} 与 {second} 实际上没有差别：二者的 CER 只差 {difference}，要区分它们需要超过 {most} 条语句。",
    ),
    "verdict.unstated": (
        "An older version of this program scored these trials; they do not record its version of the normalisation. "
        "Re-running the same command only rescores.",
        "这些试验由本程序的旧版本评分，没有记录规范化版本。再次运行同一条命令只会重新评分。",
    ),
    "verdict.left_out": (
        "Trial {names} was not compared: its utterances.jsonl is missing or differs.||"
        "Trials {names} were not compared: their utterances.jsonl is missing or differs.",
        "试验 {names} 未参与比较：其 utterances.jsonl 缺失或与其他试验不同。",
    ),
    "verdict.beyond": (
        "Only the {n} trials with the lowest CER were compared with each other.",
        "只有 CER 最低的 {n} 个试验参与了相互比较。",
    ),
    "verdict.place": ("{name} ({at})", "{name}（{at}）"),
    "verdict.turned": (
        "One adapter overfitted: {names}.||{n} adapters overfitted (validation loss rose again): {names}.",
        "{n} 个适配器过拟合，验证损失先降后升：{names}。",
    ),
    # the leaderboard
    "board.title": ("Leaderboard", "排行榜"),
    "board.trial": ("trial", "试验"),
    "board.cer": ("CER %", "CER %"),
    "board.cer_hint": ("character error rate; strict: every character counts", "字错误率；严格计分：每个字符都算"),
    "board.interval": ("95 % interval", "95 % 区间"),
    "board.gain": ("vs base", "相对基座"),
    "board.gain_hint": (
        "relative change of CER against the zero-shot base under the same decoding",
        "与相同解码设置下的零样本基座相比，CER 的相对变化",
    ),
    "board.normalised": ("normalised CER %", "规范化 CER %"),
    "board.normalised_hint": (
        "CER after normalising numbers, case and punctuation",
        "对数字、大小写和标点规范化之后的 CER",
    ),
    "board.wer": ("WER %", "WER %"),
    "board.wer_hint": ("word error rate", "词错误率"),
    "board.mer": ("MER %", "MER %"),
    "board.mer_hint": (
        "mixed error rate: Han characters, and words of letters and digits",
        "混合错误率：以汉字和字母数字词为单位",
    ),
    "board.exact": ("exact %", "全对 %"),
    "board.exact_hint": ("sentences without any error", "没有任何错误的句子"),
    "board.edits_hint": ("substituted, deleted and inserted characters", "替换、删除和插入的字符数"),
    "board.empty": ("empty", "空输出"),
    "board.empty_hint": ("utterances with empty output", "输出为空的语句数"),
    "board.repeats": ("repeats", "重复采样"),
    "board.repeats_hint": (
        "standard deviation of the CER over repeated sampling, and its lowest and highest value",
        "重复采样时 CER 的标准差，以及最低值和最高值",
    ),
    "board.repeats_told": ("{n} repeats, from {low} to {high} %", "重复 {n} 次，从 {low} 到 {high} %"),
    "board.training": ("training", "训练"),
    "board.training_hint": ("time to train the adapter, or reused from the store", "训练适配器的时间，或复用自存储"),
    "board.reused": ("reused", "复用"),
    "board.recommended": ("recommended", "推荐"),
    "board.alike": ("ties with the best", "与最佳并列"),
    "board.note": (
        "Lower is better; equal CERs share a rank. Bars are CERs, whiskers their 95 % intervals. The base is the "
        "model without an adapter, decoded in the same way. Click a heading to sort.",
        "越低越好；CER 相同则名次相同。长条为 CER，须线为 95 % 区间。基座是不带适配器、以同样方式解码的模型。"
        "点击表头排序。",
    ),
    "board.note_alike": (
        "≈ marks trials that tie with the best: no test separates them from it.",
        "≈ 表示与最佳并列：检验无法区分二者。",
    ),
    "filter.legend": ("Filter", "筛选"),
    "filter.text": ("text", "文本"),
    "filter.placeholder": ("words that a row must contain", "行中须包含的文字"),
    "filter.all": ("all", "全部"),
    "filter.group": ("Only ties with the best", "只看与最佳并列的"),
    "filter.clear": ("Clear", "清除"),
    "filter.count": ("{shown} of {all} rows", "显示 {shown} / {all} 行"),
    # missing and stopped trials
    "missing.title": ("Not finished", "未完成"),
    "missing.no_reason": ("no cause recorded", "没有记录原因"),
    "missing.not_begun": ("{n} trial has not started.||{n} trials have not started.", "{n} 个试验没有开始。"),
    "missing.again": ("Re-run the same sweep command to resume it.", "再次运行同一条扫描命令即可恢复。"),
    "halving.title": ("Stopped early", "提前停止"),
    "halving.step_hint": ("step at which it was stopped or failed, of all its steps", "在第几步被停止或失败（共几步）"),
    "halving.cer_hint": ("greedy character error rate at that step", "该步的贪心解码字错误率"),
    "halving.loss_hint": ("validation loss at that step", "该步的验证损失"),
    "halving.rank": ("rank", "名次"),
    "halving.rank_hint": ("among the adapters compared at that step", "在该步参与比较的适配器中的名次"),
    "halving.why": ("reason", "原因"),
    "halving.when": ("time", "时间"),
    "halving.trials_hint": ("trials that were therefore not run", "因此没有运行的试验"),
    "halving.of": ("{step} of {all}", "{step} / {all}"),
    "halving.stopped_at": ("{n} stopped at step {step}", "{n} 个停于第 {step} 步"),
    "halving.none": ("none stopped", "没有被停止的"),
    "halving.summary": (
        "Successive halving by {metric}: of {n} adapters, {losses}",
        "按 {metric} 逐次减半：{n} 个适配器中，{losses}",
    ),
    "halving.saved": (
        "{said}; {trained} of {all} steps were enough ({share} %).",
        "{said}；{all} 步中只需 {trained} 步（{share} %）。",
    ),
    "halving.note": (
        "Adapters were compared at the same step, after the same batches, on the same utterances. Those listed were "
        "behind at that step and are not in the leaderboard; some might have caught up later. Their checkpoints stay "
        "in the store, and a sweep that includes them resumes there.",
        "各适配器在同一步、见过相同批次之后，用相同的语句比较。列出的这些在该步落后，不在排行榜中；"
        "其中一些之后或能赶上。它们的检查点保留在存储中，包含它们的扫描会从那里继续。",
    ),
    # worst utterances
    "worst.title": ("Worst utterances of the best trial", "最佳试验中最差的语句"),
    "worst.marked": ("Wrong characters are marked in both lines:", "错误的字符在两行中都有标记："),
    "worst.missing": ("missing", "缺失"),
    "worst.missing_where": ("in the reference,", "标在参考文本中，"),
    "worst.added": ("added", "多余"),
    "worst.added_where": ("in the output,", "标在输出中，"),
    "worst.replaced": ("replaced", "替换"),
    "worst.replaced_where": ("in either.", "两行都标。"),
    "worst.reference": ("reference", "参考"),
    "worst.output": ("output", "输出"),
    "worst.empty": ("empty", "空"),
    "worst.cut": ("… {n} more characters", "……还有 {n} 个字符"),
    "worst.none": ("Every utterance was transcribed exactly.", "所有语句都转写正确。"),
    "worst.no_file": ("This trial has no utterances.jsonl.", "此试验没有 utterances.jsonl。"),
    "worst.play": ("recording of {name}", "{name} 的录音"),
    "audio.missing": ("the recording was not found", "找不到录音"),
    "audio.unreadable": ("the recording cannot be read", "录音无法读取"),
    "audio.too_long": ("too long to embed", "太长，未放入本页"),
    "audio.budget": ("left out to limit the page's size", "为控制页面大小而略去"),
    # every trial
    "trials.title": ("Every trial", "每个试验"),
    "trials.copy": ("Copy the command", "复制命令"),
    "trials.copied": ("Copied", "已复制"),
    "trials.differs": ("Options that differ from {name}", "与 {name} 不同的选项"),
    "trials.key": ("option", "选项"),
    "trials.here": ("here", "此处"),
    "trials.there": ("there", "彼处"),
    "trials.same": ("Same config as {name}.", "配置与 {name} 相同。"),
    "trials.signature": ("adapter", "适配器"),
    "trials.trainable_parameters": ("trainable parameters", "可训练参数"),
    "trials.final_train_loss": ("training loss of the last epoch", "最后一轮的训练损失"),
    "trials.final_val_loss": ("last validation loss", "最后的验证损失"),
    "trials.steps": ("steps", "步数"),
    "trials.pinyin_error_rate": ("syllable error rate (pinyin without tones)", "音节错误率（无声调拼音）"),
    "trials.empty_rate": ("Empty output", "空输出"),
    "trials.over_generation_rate": ("Runaway output", "失控输出"),
    "trials.training": ("training time", "训练用时"),
    "trials.decoding": ("decoding time", "解码用时"),
    "trials.git_commit": ("git commit", "git 提交"),
    "trials.eval_identity": ("digest of the references", "参考文本摘要"),
    "trials.folder": ("folder", "文件夹"),
    "status.FAILED": ("failed", "失败"),
    "status.UNFINISHED": ("not finished", "未完成"),
    # facts
    "facts.title": ("Data, model and software", "数据、模型与软件"),
    "facts.sweep": ("Sweep", "参数扫描"),
    "facts.command": ("Command", "命令"),
    "facts.no_command": (
        "not recorded (no multirun.yaml); see each trial's own command",
        "没有记录（缺少 multirun.yaml）；见各试验自己的命令",
    ),
    "facts.eval_manifest": ("Evaluation set", "评测集"),
    "facts.references": ("References", "参考文本"),
    "facts.references_value": ("{references} with {chars} characters", "{references} 条，共 {chars} 个字符"),
    "facts.recorded": (
        "{references} with {chars} characters, in {recordings} recordings",
        "{references} 条，共 {chars} 个字符，来自 {recordings} 段录音",
    ),
    "facts.eval_identity": ("Digest of the references", "参考文本摘要"),
    "facts.normalisation": ("Normalisation, version", "规范化版本"),
    "facts.scoring": ("Scoring options", "评分选项"),
    "facts.words": ("{n} word||{n} words", "{n} 个词"),
    "facts.unstated": ("not recorded", "没有记录"),
    "facts.model": ("Model", "模型"),
    "facts.git_commit": ("Git commit", "Git 提交"),
    "facts.environment": ("Differences in software and hardware (trials)", "软件与硬件的差异（试验数）"),
    "facts.alike": ("none", "无"),
    "facts.versions": ("Software that wrote this report", "写出本报告的软件版本"),
    "cost.title": ("Time and cost", "时间与成本"),
    "cost.training": ("Training", "训练"),
    "cost.training_value": ("{time} for {n} adapter||{time} for {n} adapters", "{time}，{n} 个适配器"),
    "cost.none": ("none: every adapter was in the store", "无：所有适配器都取自存储"),
    "cost.alone": ("Sum over the adapters", "各适配器用时之和"),
    "cost.decoding": ("Decoding and scoring", "解码与评分"),
    "cost.decoding_value": ("{time} for {n} trial||{time} for {n} trials", "{time}，{n} 个试验"),
    "cost.saved": ("Saved by sharing adapters", "共享适配器节省"),
    "cost.saved_value": ("{time}: {n} further training||{time}: {n} further trainings", "{time}：少训练 {n} 次"),
    "cost.device_hours": ("Device hours", "设备小时"),
    "cost.device_hours_value": ("{hours} h of training and decoding", "训练与解码共 {hours} 小时"),
    "cost.note": (
        "As recorded: a reused transcript or adapter counts the time that making it took.",
        "按记录计：复用转写结果或适配器的试验，计其首次产生时所用的时间。",
    ),
}
