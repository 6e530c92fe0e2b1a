"""How numbers are said; the left column is what a transcript may hold, in lower case and half width."""

from __future__ import annotations

import random
import time

import pytest

from kimi_audio_ft.scoring import normalise
from kimi_audio_ft.scoring.spoken_numbers import fold_numerals, spell_numbers
from tests.pace import pace


@pytest.mark.parametrize(
    ("written", "said"),
    [
        *(
            ("2000", "二千"),
            ("2000个", "二千个"),
            ("110个", "一百一十个"),
            ("10086", "一万零八十六"),
            ("7000万", "七千万"),
        ),
        *(("12,000元", "一万二千元"), ("12000元", "一万二千元"), ("0.05", "零点零五"), ("2.5亿", "二点五亿")),
        ("123456789012元", "一千二百三十四亿五千六百七十八万九千零一十二元"),
        *(("1.3亿美元", "一点三亿美元"), ("$2.5亿", "二点五亿美元"), ("$ 5", "五美元"), ("第3条", "第三条")),
        *(("1‰", "千分之一"), ("100%", "百分之百"), ("50%", "百分之五十"), ("50 %", "百分之五十")),
        *(("6.3%", "百分之六点三"), ("3/4", "四分之三"), ("1\u20442", "二分之一"), ("增长-3%", "增长负百分之三")),
        *(("-5度", "负五度"), ("\u22125度", "负五度"), ("到36.5°c", "到三十六点五摄氏度")),
        *(("10:05", "十点零五分"), ("11:00", "十一点"), ("10:30", "十点三十分"), ("0:30", "零点三十分")),
        *(("13:10:36", "十三点十分三十六秒"), ("3:2领先", "三比二领先")),
        *(
            ("2024年", "二零二四年"),
            ("2024 年", "二零二四年"),
            ("08年", "零八年"),
            ("20年后", "二十年后"),
            ("90后", "九零后"),
        ),
        *(("8月15号", "八月十五号"), ("08月05日", "八月五日"), ("2024-08-15", "二零二四年八月十五日")),
        # Ranges, sums and products
        *(("3-5个", "三到五个"), ("3~5个", "三到五个"), ("3–5个", "三到五个"), ("10-20%", "百分之十到百分之二十")),
        *(("10%-20%", "百分之十到百分之二十"), ("2023-2024年", "二零二三到二零二四年")),
        *(("2023年-2024年", "二零二三年到二零二四年"), ("8月1日—8月5日", "八月一日到八月五日")),
        *(("t+1交易", "t加一交易"), ("t+1", "t加一"), ("3+2模式", "三加二模式"), ("7×24小时", "七乘二十四小时")),
        # Names that hold letters, and versions
        *(("5g网", "五g网"), ("2.5g内存", "二点五g内存"), ("24k金", "二十四k金"), ("k12教育", "k十二教育")),
        *(("covid-19", "covid-十九"), ("iphone15手机", "iphone十五手机"), ("rtx4090显卡", "rtx四零九零显卡")),
        *(("1080p视频", "一零八零p视频"), ("2024q3财报", "二零二四年q三财报"), ("2.0.1版", "二点零点一版")),
        ("1,2,3", "一,二,三"),
        # Digits that are read one by one
        *(("13800138000", "一三八零零一三八零零零"), ("138 0013 8000", "一三八零零一三八零零零")),
        *(("138-0013-8000", "一三八零零一三八零零零"), ("010-64035547", "零一零六四零三五五四七")),
        *(("电话是110", "电话是一一零"), ("拨打12306", "拨打一二三零六"), ("007", "零零七")),
    ],
)
def test_readings(written: str, said: str) -> None:
    assert spell_numbers(written) == said


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        *(("幺三八零零", "一三八零零"), ("幺幺零", "一一零"), ("老幺", "老幺"), ("二〇二四年", "二零二四年")),
        *(("两个", "二个"), ("一千两百", "一千二百"), ("二两酒半斤八两银两", "二两酒半斤八两银两")),
        *(("百分之十到二十", "百分之十到百分之二十"), ("百分之五到一起", "百分之五到一起")),
        *(("百分之五到点", "百分之五到点"), ("百分之负三", "负百分之三"), ("百分之一百", "百分之百")),
        *(("百分之一百二十", "百分之一百二十"), ("五g和四k", "五g和四k")),
    ],
)
def test_numerals_with_several_writings(text: str, folded: str) -> None:
    assert fold_numerals(text) == folded


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("2个", "两个"), ("2000块", "两千块"), ("200万", "两百万"), ("2点", "两点"), ("10000000", "一千万")),
        *(("二〇二四年", "2024年"), ("二○○四年", "2004 年"), ("两万两千", "22,000"), ("一千零一夜", "1001夜")),
        *(("10-20%", "百分之十到二十"), ("百分之-3", "-3%"), ("百分之五十", "50%"), ("T+1", "T加一")),
        *(("5g网络", "五g网络"), ("5G", "五G"), ("K12", "K十二"), ("G20峰会", "G二十峰会"), ("GPT-4", "GPT四")),
        *(("用iPhone 15 Pro", "用iphone十五pro"), ("100M宽带", "一百M宽带")),
        # Marks that stand beside numbers
        *(("1，2，3。", "一二三"), ("他说：10：30到。", "他说十点三十分到")),
        ("共计６．４２万人（约１／５）", "共计六点四二万人约五分之一"),
    ],
)
def test_both_ways_of_writing_are_the_same(one: str, other: str) -> None:
    assert normalise(one, "normalised") == normalise(other, "normalised")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(
            ("买了3kg", "买了三公斤"),
            ("3-5公斤", "3-5kg"),
            ("100㎡", "一百平方米"),
            ("时速80km/h", "时速八十公里每小时"),
        ),
        *(("20公里/小时", "二十公里每小时"), ("两次/天", "2次每天"), ("卖了100w", "卖了100万")),
        *(("305室", "三零五室"), ("打119", "打幺幺九"), ("拨12345", "拨幺二三四五"), ("报110", "报一一零")),
        *(("1-2天", "一两天"), ("一到两天", "1-2天"), ("3-4个", "三四个"), ("3-4个", "三到四个")),
        *(("RMB100", "一百元"), ("RMB 100", "¥100"), ("100万rmb", "一百万元"), ("usd2.5亿", "二点五亿美元")),
        *(("2024Q3", "二零二四年第三季度"), ("2024年Q3财报", "二零二四年三季度财报"), ("2024H1", "二零二四年上半年")),
        *(("3x10^8", "三乘十的八次方"), ("1920x1080", "一千九百二十乘一千零八十"), ("±5%", "正负百分之五")),
        *(("+-5%", "±5%"), (">5%", "大于百分之五"), (">= 3天", "大于等于三天"), ("≤10个", "小于等于十个")),
        *(("e-mail", "email"), ("发个E-mail吧", "发个email吧"), ("Wi-Fi", "WiFi"), ("连Wi-Fi 6", "连wifi六")),
        *(("don’t", "don't"), ("AA＋评级", "AA+评级"), ("AA+", "AA加"), ("C++语言", "C加加语言")),
    ],
)
def test_version_4_takes_both_for_the_same(one: str, other: str) -> None:
    assert normalise(one, "normalised") == normalise(other, "normalised")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("AA+", "AA"), ("AA+评级", "AA评级"), ("C++", "C"), ("C++", "C+"), ("C#", "C"), ("用C#写", "用C写")),
        *(
            ("+-5 %", "5 %"),
            ("±5%", "5%"),
            ("> 5 %", "5 %"),
            (">5%", "5%"),
            (">5%", "<5%"),
            ("≥3", ">3"),
            ("tolerance ±5", "tolerance 5"),
        ),
        *(("we're here", "were here"), ("I'll go", "ill go"), ("Wi-Fi", "Wi"), ("well-known", "wellknown")),
        *(("十一到二天", "十一二天"), ("打120分", "打一二零分"), ("5g", "五克"), ("x>5", "x5")),
    ],
)
def test_version_4_takes_neither_for_the_other(one: str, other: str) -> None:
    assert normalise(one, "normalised") != normalise(other, "normalised")


@pytest.mark.parametrize(
    "text",
    [
        *("十分感谢", "一些", "千万不要", "二两酒", "半斤八两", "银两", "○○公司"),
        *("in 2024 we had 3,000 users", "我们，你们。"),
    ],
)
def test_what_holds_no_number_or_is_not_mandarin_stays(text: str) -> None:
    assert spell_numbers(text) == text


def test_a_second_pass_changes_nothing() -> None:
    rng = random.Random(1)
    pieces = [*"0123456789" * 2, *"万亿年月号个零一二两幺〇点后电话是到负abgkpq", *".,:-/%+~$ °—−○"]
    pieces += ["分之", "1,234", "T+", "℃"]
    for _ in range(6000):
        text = "".join(rng.choices(pieces, k=rng.randrange(1, 12)))
        once = normalise(text, "normalised")
        assert normalise(once, "normalised") == once, text


def test_no_digit_is_left_in_mandarin() -> None:
    rng = random.Random(2)
    for _ in range(2000):
        text = "我" + "".join(rng.choices([*"0123456789.,:-/%+年个gk "], k=9))
        assert not any(character in "0123456789" for character in normalise(text, "normalised")), text


def test_texts_with_numbers_take_a_fraction_of_a_millisecond() -> None:
    rng = random.Random(0)
    texts = [f"我们有{rng.randrange(10_000)}个人，{rng.randrange(100)}%在{rng.randrange(24)}:30到" for _ in range(2000)]
    begin = time.process_time()
    for text in texts:
        spell_numbers(text)
    assert time.process_time() - begin < 20 * pace()
