# ruff: noqa: SIM905 - a quoted list of words stays readable where a thousand quoted strings do not
"""General domain: everyday and office Mandarin from templates; a quarter of the sentences are random word sequences."""

from __future__ import annotations

import random
import types

from kimi_audio_ft.demo.mandarin import Sentence, Slot, any_abbreviation, any_of, fill, literals, plain
from kimi_audio_ft.demo.numbers import spoken_count, spoken_digits, spoken_number

TIMES = """今天 明天 昨天 后天 上午 下午 晚上 早上 中午 现在 刚才 最近 以前 周一 周二 周三 周四 周五 周末 这个月
下个月 上个月 去年 今年 明年 春天 夏天 秋天 冬天 平时 春节 一会儿 这几天""".split()

PEOPLE = """我 你 他 我们 你们 他们 大家 老师 同学 医生 爸爸 妈妈 哥哥 姐姐 弟弟 妹妹 爷爷 奶奶 经理 同事 客户
朋友 司机 孩子 演员 教授 老板 服务员 工程师""".split()

SURNAMES = "王 李 刘 陈 赵 黄 周 马 吴 张 韩 沈 魏 江 石 高 林 方".split()
GIVEN_NAMES = "小明 建国 立新 海春 家明 学军 国平 晓东 大伟 春雨".split()
TITLES = "先生 女士 老师 医生 经理 主任 教授".split()

PLACES = """公司 学校 医院 超市 图书馆 火车站 机场 公园 家里 办公室 会议室 银行 餐厅 商店 电影院 体育馆 菜市场
北京 上海 广州 成都 西安 沈阳 长江边 湖边 山上 海边 楼下 门口 教室 工厂 客厅""".split()

ACTIONS = """吃米饭 吃面条 吃早饭 喝牛奶 喝茶 买水果 买衣服 买菜 买电脑 买手机 看电影 看电视 看报纸 看小说
写作业 写报告 写日记 听音乐 学习汉语 学习韩语 学习英语 打篮球 打电话 打扫房间 跑步 休息 上班 下班 开会 加班 出差
旅游 做饭 洗衣服 坐地铁 坐飞机 开车 排队 取钱 拍照 唱歌 跳舞 画画 面试 报名 考试 参加比赛 参观 讨论方案 安排工作
准备材料 修改合同 检查文件 打印资料 联系客户 接待客人 解决问题 回答问题 介绍产品 提高质量 降低成本 组织活动
完成任务 测试系统 更新数据 帮助别人 办手续 签字 发言 总结经验 制定计划 做实验""".split()

THINGS = """天气 方案 会议 计划 问题 价格 质量 味道 菜 房间 衣服 电影 小说 音乐 比赛 工作 身体 成绩 城市 环境
交通 空气 风景 服务 程序 公式 形式 语言 文化 历史 消息 办法 意思 手机 电脑 汽车 飞机 地图 照片 牛肉
西瓜 动物 花""".split()

ADJECTIVES = """好 大 小 贵 便宜 漂亮 干净 安静 热闹 重要 简单 复杂 容易 困难 有趣 特别 普通 方便 舒服 新鲜 安全
快 慢 高 低 长 远 近 冷 热 满意 高兴 难过 成功 顺利 精彩 合适 明显""".split()

MODALS = """想 要 会 能 应该 可以 必须 愿意 打算 准备 喜欢 开始 继续 经常 已经 正在 从来不 一起 先 再 也 都 不想
不能 一定""".split()

OPINIONS = "觉得 认为 知道 听说 希望 相信 发现 担心 同意 建议 记得 看见 估计 保证 说".split()

TAILS = "吗 吧 呢 啊 了 怎么样 好不好 行不行 可以吗 对不对".split()

QUESTIONS = "什么时候 为什么 怎么 在哪里 跟谁一起 是不是 有没有 多久才".split()

CONNECTIVES = "但是 所以 因为 然后 而且 如果 虽然 不过 另外 首先 最后 其实 当然 可能 大概".split()

FILLERS = "嗯 呃 啊 那个".split()

MEASURED = """个人 个月 块钱 公里 公斤 分钟 小时 本书 张票 件衣服 次会 杯茶 瓶水 座楼 家店 份文件 台电脑 页纸
位客人""".split()
CROWDS = "员工 观众 游客 学生 用户".split()

# Abbreviations; the target domain's have the same letters.
LATIN = "OK APP PPT KTV DVD CD VIP NBA GPS T恤 A座 B组 E区 L码 M码 O型 R键".split()

# Contexts in which the general domain writes digits (rooms, buses, prices).
DIGIT_FORMS = ("房间号{digits}", "{digits}路公交车", "{digits}号楼", "单价{decimal}元", "门牌{digits}号")

# Ordinary words with the characters of the target domain, so that only its words, not its characters, are new to the
# base. Used in random sequences only.
BRIDGES = """勇气 照耀 坚定 儿童 世界 白桦 蓬莱 旭日 河岸 嘉奖 睿智 沼泽 浩大 宇航 将来 未来 时间 期中 站队
战争 控制 终于 姿势 表示 基本 黄金 价值 欠债 负担 投入 流水 利润 等级 尽力 调查 额头 收回 购物 权力 赌气 款式
委员 版本 座席 转身 池水 赞美 选票 盈利 比率 退休 渠道 直达 俱全 部门 播放 费用 进步 确实 整数 评价 盘子 协助
季节 涨价 减少 倍数 美丽 轮流 股票 董事 红茶 增长 讲课 志愿 送给 责任 付款 总之 点名""".split()


FILLER_SHARE = 0.1
_RANDOM_SHARE = 0.25  # cannot be predicted from the text, so the model must use the audio

_TEMPLATES = """{time}{person}{modal}{action} {person}{time}在{place}{action} {person}{question}{action}
{person}{question}去{place} {time}{place}的{thing}很{adjective} {time}{thing}{adjective}{tail}
{person}{opinion}{thing}很{adjective} {person}的{thing}不{adjective} {connective}{person}{modal}{action}
{connective}{thing}太{adjective}了 {time}{person}从{place}到{place} {person}把{thing}放在{place}
{person}有{counted} {time}{place}有{counted} {place}有{large}名{crowd} {person}一共花了{large}元
{time}用了{large}块钱 {person}的生日是{date} {date}{person}去{place} {year}{person}在{place}上班
{year}{date}{person}结婚 {digits}离{place}很近 {person}住在{digits} {person}{modal}用{latin}{tail}
{person}的{latin}很{adjective} {time}去{latin}见{person} {person}比{person}{adjective}
{person}和{person}{time}{action} {connective}请{person}{action} {thing}和{thing}都很{adjective}
{person}别再{action}了 {time}{person}{action}{tail} {opinion}{person}{modal}{action}
{time}{place}的{thing}多少钱 {time}这是{person}的{thing} {person}{time}没有{action}
{person}问{person}{question}{action} {time}{thing}比较{adjective} 那家{place}的{thing}{adjective}{tail}
{person}让{person}{action}""".split()


def draw(rng: random.Random) -> list[Sentence]:
    if rng.random() < _RANDOM_SHARE:
        return [_random_word(rng) for _ in range(rng.randint(3, 5))]
    return fill(rng.choice(_TEMPLATES), _SLOTS, rng)


def characters() -> set[str]:
    numbers = "零一二三四五六七八九十百千万亿两点月号年0123456789."
    forms = literals([*_TEMPLATES, *DIGIT_FORMS])
    people = [*SURNAMES, *GIVEN_NAMES, *TITLES]
    return set("".join([*_POOL, *BRIDGES, *MEASURED, *FILLERS, *people, *LATIN, forms, numbers]))


def _person(rng: random.Random) -> Sentence:
    if rng.random() < 0.7:
        return plain(rng.choice(PEOPLE))
    return plain(rng.choice(SURNAMES) + rng.choice([*GIVEN_NAMES, *TITLES]))


def _counted(rng: random.Random) -> Sentence:
    value = rng.choice([rng.randint(1, 10), rng.randint(11, 99), rng.randint(100, 999)])
    return plain(spoken_count(str(value)) + rng.choice(MEASURED))


def _large(rng: random.Random) -> Sentence:
    return plain(spoken_number(rng.randint(1, 99) * 10 ** rng.randint(2, 7)))


def _date(rng: random.Random) -> Sentence:
    return plain(f"{spoken_number(rng.randint(1, 12))}月{spoken_number(rng.randint(1, 31))}号")


def _year(rng: random.Random) -> Sentence:
    return plain(spoken_digits(str(rng.randint(1980, 2030))) + "年")


def _digits(rng: random.Random) -> Sentence:
    """A phrase with a number written in digits, so that the base learns them."""
    digits, decimal = str(rng.randint(101, 999)), f"{rng.randint(0, 19)}.{rng.randint(1, 9)}"
    form = rng.choice(DIGIT_FORMS)
    spoken = form.format(digits=spoken_digits(digits), decimal=spoken_number(decimal))
    return Sentence(form.format(digits=digits, decimal=decimal), spoken)


def _random_word(rng: random.Random) -> Sentence:
    kind = rng.random()
    if kind < 0.4:
        return plain(rng.choice(BRIDGES))
    if kind < 0.8:
        return plain(rng.choice(_POOL))
    return rng.choice([_person, _large, _digits, _SLOTS["latin"], _SLOTS["latin"]])(rng)


_PLAIN_SLOTS = types.MappingProxyType(
    {
        "time": TIMES,
        "place": PLACES,
        "action": ACTIONS,
        "thing": THINGS,
        "adjective": ADJECTIVES,
        "modal": MODALS,
        "opinion": OPINIONS,
        "tail": TAILS,
        "question": QUESTIONS,
        "connective": CONNECTIVES,
        "crowd": CROWDS,
    }
)
_POOL = [*(word for group in _PLAIN_SLOTS.values() for word in group), *PEOPLE]
_SLOTS: dict[str, Slot] = {
    **{name: any_of(group) for name, group in _PLAIN_SLOTS.items()},
    "person": _person,
    "counted": _counted,
    "large": _large,
    "date": _date,
    "year": _year,
    "digits": _digits,
    "latin": any_abbreviation(LATIN),
}
