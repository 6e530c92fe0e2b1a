"""Texts of the charts and what stands beside them, in English and Chinese, as in ``report.TEXTS``."""

from __future__ import annotations

TEXTS = {
    # parameters in plain words
    "param.lora.r": ("LoRA rank", "LoRA 秩"),
    "param.lora.lora_alpha": ("LoRA alpha", "LoRA alpha"),
    "param.optim.lr": ("learning rate", "学习率"),
    "param.decoding.text_temperature": ("text temperature", "文本温度"),
    "param.decoding.text_top_k": ("top-k", "top-k"),
    "param.data.train_manifest": ("training data", "训练数据"),
    "param.data.prompt": ("prompt", "提示词"),
    "param.seed": ("seed", "随机种子"),
    "open.data.train_subset": ("all", "全部"),
    "open.data.prompt": ("the manifest's", "清单中的"),
    "param.prompt": ("prompt", "提示词"),
    "param.augment": ("augmentation", "数据增强"),
    "param.data.train_subset": ("training conversations", "训练对话数"),
    "param.data.train_subset_seed": ("seed of the training subset", "训练子集的种子"),
    # charts
    "charts.title": ("Effect of each parameter", "各参数的影响"),
    "charts.points": ("Points are trials; the best is ringed.", "点为试验，最佳者带圈。"),
    "charts.lines": (
        "Thin lines join trials that differ only in this parameter, thick lines the means of each colour; click a "
        "legend entry to show one colour alone.",
        "细线连接仅此一项不同的试验，粗线为各颜色的均值；点击图例可只看一种颜色。",
    ),
    "charts.base": (
        "The dashed line is the zero-shot base, at its lowest CER where the axis is no decoding setting.",
        "虚线为零样本基座；横轴不是解码设置时取其最低 CER。",
    ),
    "charts.no_base": ("The zero-shot base was not scored in this sweep.", "本次扫描没有给零样本基座评分。"),
    "charts.undrawn": ("This chart could not be drawn:", "无法绘制此图："),
    "charts.actions": ("Save this chart", "保存此图"),
    "charts.png": ("Save as PNG", "保存为 PNG"),
    "charts.svg": ("Save as SVG", "保存为 SVG"),
    "charts.best_trial": ("best trial", "最佳试验"),
    "charts.normalised": ("normalised CER", "规范化 CER"),
    "charts.base_word": ("base {cer}", "基座 {cer}"),
    "parameter.title": ("CER against {param}", "{param}对 CER 的影响"),
    "parameter.axis": ("{name} ({key})", "{name}（{key}）"),
    "parameter.means": ("Mean CER over the trials: {said}.", "各试验的平均 CER：{said}。"),
    "parameter.mean": ("{cer} at {value}", "{value} 时 {cer}"),
    "parameter.values": ("{n} values of {param}.", "{param} 有 {n} 个取值。"),
    "heat.title": ("LoRA rank by learning rate", "LoRA 秩与学习率"),
    "heat.caption": (
        "Lowest CER (%) of each pair; stronger colours are better.",
        "每一对取值的最低 CER（%）；颜色越深越好。",
    ),
    "heat.caption_over": (
        "Lowest CER (%) of each pair over {others}; stronger colours are better.",
        "每一对取值在所有 {others} 上的最低 CER（%）；颜色越深越好。",
    ),
    "parallel.title": ("All trials", "所有试验"),
    "parallel.caption": (
        "One line per trial from its settings to its CER; stronger lines are better. The leaderboard's filters apply "
        "here too; click a line to find its row there.",
        "每条线是一个试验，从其设置连到 CER；线越醒目越好。排行榜的筛选同样作用于此图，"
        "点击一条线可定位到排行榜中的行。",
    ),
    "repeats.title": ("Repeated sampling at each temperature", "各温度下的重复采样"),
    "repeats.caption": (
        "Dots are repeats, lines the means of each adapter; the band is one standard deviation around the best "
        "trial's adapter. Greedy decoding (0.0) has one outcome.",
        "每个点是一次重复，每条线是一个适配器各次重复的均值；色带为最佳试验的适配器均值上下一个标准差。"
        "贪心解码（0.0）只有一个结果。",
    ),
    "repeats.repeat": ("repeat", "重复"),
    "repeats.mean": ("mean", "均值"),
    "repeats.std": ("standard deviation", "标准差"),
    "effects.title": ("Main effects", "主效应"),
    "effects.axis": (
        "change of CER against the mean of all trials (percentage points)",
        "CER 相对全部试验均值的变化（百分点）",
    ),
    "effects.caption": (
        "Left of the line is better. Whiskers: 95 % intervals over recordings; they leave out the variance of seeds.",
        "竖线左侧更好。须线为以录音为单位的 95 % 区间，不含随机种子的影响。",
    ),
    "effects.additive": (
        "Trials are missing from the grid: effects are those of an additive fit.",
        "网格缺少部分试验：效应来自加性拟合。",
    ),
    "effects.confounded": (
        "The missing trials confound {params} with another parameter: read with care.",
        "缺少的试验使 {params} 与另一参数无法分离：请谨慎解读。",
    ),
    "effects.value": ("value", "取值"),
    "effects.effect": ("effect", "效应"),
    "effects.count": ("trials", "试验数"),
    "effects.table": ("Main effects, as numbers", "主效应的数字"),
    # categories of errors
    "category.title": ("Kinds of errors", "错误类型"),
    "category.axis": ("errors per 100 reference characters", "每 100 个参考字符的错误数"),
    "category.caption": (
        "Each edit has one category; the bar's length is the CER. The best trials, the recommended one and the base.",
        "每个编辑只属于一类；长条的长度即 CER。列出最好的几个试验、推荐的试验和基座。",
    ),
    "category.share": ("share of the errors", "占全部错误"),
    "category.edits": ("errors", "错误数"),
    "category.name": ("category", "类型"),
    "category.table": ("Errors by category, as numbers", "各类错误的数字"),
    "terms.title": ("Your terms", "您的术语"),
    "terms.note": (
        "Recall and precision of each term under two trials of your choice.",
        "任选两个试验，比较各术语的召回率和精确率。",
    ),
    "terms.choose": ("Trials", "试验"),
    "terms.second": ("compared with", "对比"),
    "terms.table": ("Recall and precision of every term", "各术语的召回率和精确率"),
    "terms.more_terms": (
        "{n} further term is in trials.json.||{n} further terms are in trials.json.",
        "另有 {n} 个术语，见 trials.json。",
    ),
    "terms.more_trials": (
        "{n} further trial is in trials.json.||{n} further trials are in trials.json.",
        "另有 {n} 个试验，见 trials.json。",
    ),
    "terms.term": ("term", "术语"),
    "terms.spoken": ("times in the references", "在参考中出现的次数"),
    "terms.recall": ("recall %", "召回率 %"),
    "terms.recall_hint": (
        "share of its occurrences in the references that the output has",
        "参考文本中的出现次数里，输出也有的比例",
    ),
    "terms.precision": ("precision %", "精确率 %"),
    "terms.precision_hint": (
        "share of its occurrences in the output that the references have",
        "输出中的出现次数里，参考文本也有的比例",
    ),
    "category.punctuation": ("punctuation", "标点"),
    "category.person_name": ("person names", "人名"),
    "category.domain_term": ("domain terms", "领域术语"),
    "category.abbreviation": ("abbreviations, code-switching", "缩写与中英混说"),
    "category.number_format": ("number format (same value)", "数字写法（数值相同）"),
    "category.number_value": ("number value", "数值"),
    "category.filler": ("filler words", "语气词"),
    "category.homophone_same_tone": ("homophones, same tone", "同音字（同调）"),
    "category.homophone_other_tone": ("homophones, other tone", "同音字（异调）"),
    "category.other": ("other", "其他"),
    # loss curves
    "loss.title": ("Loss curves", "损失曲线"),
    "loss.train": ("Training loss", "训练损失"),
    "loss.val": ("Validation loss", "验证损失"),
    "loss.step": ("step", "步"),
    "loss.loss": ("loss", "损失"),
    "loss.adapter": ("adapter", "适配器"),
    "loss.caption": (
        "One line per adapter ({n}); click a legend entry to show it alone.",
        "每个适配器一条线（共 {n} 条）；点击图例中的名称可只看该条。",
    ),
    "loss.one": ("One adapter.||{n} adapters.", "{n} 个适配器。"),
    "loss.marked": (
        "Rings: the lowest validation loss before it rose again; later steps overfit.",
        "带圈的点是验证损失回升之前的最低处：此后即过拟合。",
    ),
    "overfit.title": ("Overfitting", "过拟合"),
    "overfit.verdict": ("verdict", "结论"),
    "overfit.none": ("no overfitting", "没有过拟合"),
    "overfit.turned": ("overfitting: validation loss rises after {at}", "过拟合：验证损失在 {at} 之后回升"),
    "overfit.gap": ("validation loss far above the training loss", "验证损失远高于训练损失"),
    "overfit.unknown": ("too few validation points", "验证点太少"),
    "overfit.epoch": ("epoch {n}", "第 {n} 轮"),
    "overfit.step": ("step {n}", "第 {n} 步"),
    "overfit.lowest": ("lowest validation loss", "最低验证损失"),
    "overfit.at": ("at", "位置"),
    "overfit.distance": ("above training", "高出训练损失"),
    "overfit.distance_hint": ("last validation loss minus the training loss around it", "最后验证损失减去附近训练损失"),
    # the learning curve over training-set sizes
    "learning.title": ("Learning curve", "学习曲线"),
    "learning.chart": ("CER against the size of the training set", "CER 与训练集大小"),
    "learning.caption": (
        "Filled points are trials, hollow points forecasts; the band is the 95 % interval of the fitted power law "
        "over recordings (and seeds, where a size has several).",
        "实心点为试验，空心点为预测；色带为幂律拟合的 95 % 区间，以录音为单位（同一大小训练了多个种子时也含种子）。",
    ),
    "learning.refused": (
        "There are too few sizes for a learning curve: train with at least three values of {param}.",
        "训练集大小的取值太少，画不出学习曲线：{param} 至少要有三个取值。",
    ),
    "learning.one": ("all trials", "全部试验"),
    "learning.law": (
        "{name}: CER {first} at {smallest} conversations, {last} at {largest}{trained}, falling as n^-{exponent} "
        "towards {floor}.",
        "{name}：{smallest} 条对话时 CER {first}，{largest} 条时 {last}{trained}，按 n^-{exponent} 降向 {floor}。",
    ),
    "learning.flat": (
        "{name}: CER {first} at {smallest} conversations, {last} at {largest}{trained}; this evaluation set shows no "
        "effect of more data.",
        "{name}：{smallest} 条对话时 CER {first}，{largest} 条时 {last}{trained}；此评测集显示不出更多数据的作用。",
    ),
    "learning.off": (
        " The CER at {sizes} is off this curve by more than chance: treat the forecasts as guesses, and train those "
        "sizes with other seeds.",
        "{sizes} 条对话时的 CER 偏离此曲线，超出偶然范围：预测只能当作猜测，请换种子再训练这些大小。",
    ),
    "learning.told": ("Learning curve, {said}", "学习曲线：{said}"),
    "learning.steps": (" ({n} steps each)", "（各 {n} 步）"),
    "learning.steps_between": (" ({low} to {high} steps)", "（{low} 至 {high} 步）"),
    "learning.forecasts": ("Forecast for more conversations: {said}.", "对更多对话的预测：{said}。"),
    "learning.at": ("{cer} at {size}{beside}", "{size} 条时 {cer}{beside}"),
    "learning.about": (" ({said})", "（{said}）"),
    "learning.between": ("{low} to {high}", "{low} 至 {high}"),
    "learning.forecast": ("forecast", "预测"),
    "learning.far": ("a guess: far outside the measured sizes", "猜测：远超出测量范围"),
}
