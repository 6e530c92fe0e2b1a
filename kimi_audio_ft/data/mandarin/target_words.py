# ruff: noqa: SIM905 - a quoted list of words stays readable where a thousand quoted strings do not
"""Words of the demo's target domain: meetings about investment and e-sports, as in the experiment report.

Every character is known from the general domain; the words are not. Many sound exactly like a general word that is
written otherwise, so a model that has not learned the domain writes the general one.
"""

from __future__ import annotations

# Target word -> general word with the same sound (equal eSpeak phonemes, tones included).
HOMOPHONES = {
    "程功": "成功",
    "石坚": "时间",
    "童世": "同事",
    "江来": "将来",
    "文桦": "文化",
    "魏莱": "未来",
    "程旭": "程序",
    "方岸": "方案",
    "公示": "公式",
    "形势": "形式",
    "战队": "站队",
    "期终": "期中",
}

NAMES = "张勇 吴耀飞 程功 石坚 童世 江来 文桦 魏莱 程旭 方岸 沈嘉睿 韩雨泽 李浩宇 林志明".split()
ROLES = "总 董 老师 经理".split()

TERMS = """二级市场 一级市场 基金 估值 资产负债表 投资成本 现金流 净利润 尽调报告 基金份额 回购条款 股权
对赌协议 投委会 市盈率 退出渠道 股价 实控人 期终分红 公示期 形势""".split()

ESPORTS = "战队 赛事版权 春季赛 直播平台 俱乐部 席位费 主场 转会费 奖金池 赞助商 选手合同 流量".split()

# Abbreviations and their spoken form.
LATIN = {
    "LP": "L P",
    "GP": "G P",
    "LPL": "L P L",
    "KPL": "K P L",
    "IPO": "I P O",
    "PE": "P E",
    "VC": "V C",
    "CEO": "C E O",
    "MVP": "M V P",
    "EDG": "E D G",
    "RNG": "R N G",
    "AI": "A I",
    "5G": "五 G",
    "A轮": "A 轮",
    "B轮": "B 轮",
    "APP": "APP",
    "OK": "OK",
}

VERBS = "看一下 算一下 复盘 对一下 讲一下 跟进 确认 调整 评估".split()
CHANGES = "涨了 增加了 减少了 调到 做到 超过 不到 大概是".split()
AMOUNT_UNITS = "万 亿 亿美元 万美元 万元 个亿".split()
MULTIPLES = "倍 个点 家".split()
