# SPDX-License-Identifier: Apache-2.0
"""Messages in bytes: what glibc and dig send and what goes back, what goes to an upstream and comes from it."""

from __future__ import annotations

import pytest
from simulated_dns import Site, replies

from vswitch.dns.action import Send
from vswitch.dns.codec import Question, Transport, read

WEB = "0377656200"
UPPER_WEB = "0357456200"
OPT = "00002904d0000000000000"

EXCHANGES = {
    "A of a container, as glibc asks": (
        "1a2b01000001000000000000" + WEB + "00010001",
        "1a2b85800001000100000000" + WEB + "00010001c00c00010001000000000004ac120002",
    ),
    "AAAA, the case of the question kept": (
        "1a2b01000001000000000000" + UPPER_WEB + "001c0001",
        "1a2b85800001000100000000" + UPPER_WEB + "001c0001c00c001c0001000000000010fd000001000000000000000000000002",
    ),
    "A as dig asks: AD, EDNS, a cookie": (
        "000101200001000000000001" + WEB + "0001000100002904d000000000000c000a00080102030405060708",
        "000185800001000100000001" + WEB + "00010001c00c00010001000000000004ac120002" + OPT,
    ),
    "A with DO and CD: both come back": (
        "000101100001000000000001" + WEB + "000100010000291000000080000000",
        "000185900001000100000001" + WEB + "00010001c00c00010001000000000004ac12000200002904d0000080000000",
    ),
    "TXT of a container: NODATA with an SOA of the parent": (
        "1a2b00000001000000000000" + WEB + "00100001",
        "1a2b"
        "8480"
        "0001"
        "0000"
        "0001"
        "0000" + WEB + "0010"
        "0001"
        "c010"
        "0006"
        "0001"
        "00000000"
        "0016"
        "00"
        "00"
        "00000001"
        "00000e10"
        "00000258"
        "00015180"
        "00000000",
    ),
    "A of a container that isn't there: NXDOMAIN": (
        "1a2b01000001000000000000026e6f0000010001",
        "1a2b85830001000000010000026e6f0000010001c00f0006000100000000001600000000000100000e10000002580001518000000000",
    ),
    "PTR": (
        "1a2b01000001000000000000013201300231380331373207696e2d61646472046172706100000c0001",
        "1a2b"
        "8580"
        "0001"
        "0001"
        "0000"
        "0000"
        "0132"
        "0130"
        "023138"
        "03313732"
        "07696e2d61646472"
        "0461727061"
        "00"
        "000c"
        "0001"
        "c00c"
        "000c"
        "0001"
        "00000000"
        "000d"
        "03776562"
        "076261636b656e64"
        "00",
    ),
    "EDNS version 1: BADVERS": (
        "000101000001000000000001" + WEB + "0001000100002904d0000100000000",
        "000181800001000000000001" + WEB + "0001000100002904d0010000000000",
    ),
    "a zone transfer: REFUSED": (
        "000100000001000000000000" + WEB + "00fc0001",
        "000180850001000000000000" + WEB + "00fc0001",
    ),
    "NOTIFY: NOTIMP, the header alone": (
        "000124000001000000000000" + WEB + "00060001",
        "0001a0840000000000000000",
    ),
    "two questions: FORMERR, the header alone": (
        "000101000002000000000000" + WEB + "00010001" + WEB + "001c0001",
        "000181810000000000000000",
    ),
}


@pytest.mark.parametrize("case", EXCHANGES)
def test_the_answer_byte_for_byte(case):
    asked, answered = (bytes.fromhex(text) for text in EXCHANGES[case])
    assert [data.hex() for data in replies(Site().ask(asked))] == [answered.hex()]


def test_what_is_read_of_a_question():
    asked = bytes.fromhex(EXCHANGES["A with DO and CD: both come back"][0])
    assert read(asked, Transport.UDP) == Question(
        1, 0x0110, bytes.fromhex(WEB + "00010001"), bytes.fromhex(WEB), 1, 1232, True, True
    )
    assert read(asked, Transport.TCP).limit == 65535


NAME = "076578616d706c6503636f6d00"


def test_what_goes_to_an_upstream_and_comes_back_from_it():
    site = Site()
    site.ask(
        bytes.fromhex("1a2b01300001000000000001" + NAME + "00010001000029020000000000000c000a00080102030405060708")
    )
    send = site.sent()
    assert isinstance(send, Send) and send.server == "9.9.9.9" and send.transport is Transport.UDP
    plain = send.data[:12] + send.data[12:25].lower() + send.data[25:]
    assert plain[2:].hex() == "01300001000000000001" + NAME + "00010001" + OPT  # no cookie, our size
    records = "c00c0001000100000e100004c0000201"
    heard = send.data[:2].hex() + "85b00001000100000001" + send.data[12:29].hex() + records + OPT
    assert [data.hex() for data in replies(site.hear(send, bytes.fromhex(heard)))] == [
        "1a2b81b00001000100000001" + NAME + "00010001" + records + OPT
    ]
    site.now += 100.9
    assert replies(site.ask(bytes.fromhex("ffff01000001000000000000" + NAME + "00010001"))) == []
    asked = "ffff01300001000000000000076558616d706c6503636f6d0000010001"
    assert [data.hex() for data in replies(site.ask(bytes.fromhex(asked)))] == [
        "ffff81b00001000100000000076558616d706c6503636f6d0000010001c00c0001000100000dac0004c0000201"
    ]
