"""A caller without a key is counted by its network, however its address is written."""

import pytest

from keys.addresses import UNKNOWN, network_of, of_this_machine


@pytest.mark.parametrize(
    ("network", "spellings"),
    [
        ("192.0.2.7", ["192.0.2.7", "::ffff:192.0.2.7", "::FFFF:c000:207", "0:0:0:0:0:ffff:192.0.2.7"]),
        ("192.0.2.8", ["192.0.2.8"]),
        ("2001:db8::/64", ["2001:db8::1", "2001:DB8:0:0:ffff::", "2001:db8::1%eth0", "2001:0db8::"]),
        ("2001:db8:0:1::/64", ["2001:db8:0:1::1"]),
        ("fe80::/64", ["fe80::1%eth0", "fe80::1%2"]),
        ("::/64", ["::1", "::"]),
        ("127.0.0.1", ["127.0.0.1"]),
    ],
)
def test_a_network_has_one_spelling(network: str, spellings: list[str]) -> None:
    assert {network_of(spelling) for spelling in spellings} == {network}


NO_ADDRESS = ["", "unknown", "testclient", "192.0.2.7:80", "192.0.2", "192.0.2.07", "[::1]", "2001:db8::1::", " ::1"]


@pytest.mark.parametrize("address", [None, *NO_ADDRESS, "_hidden", "1", "²", "::1/64", "192.0.2.7\x00", "%eth0"])
def test_what_is_no_address_is_unknown(address: str | None) -> None:
    assert network_of(address) == UNKNOWN


def test_two_hosts_of_one_ipv6_network_are_one_caller_and_two_ipv4_hosts_are_two() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:ffff:ffff:ffff")
    assert len({network_of(f"192.0.2.{host}") for host in range(256)}) == 256


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_an_address_of_this_machine_is_one_on_any_socket(address: str) -> None:
    assert of_this_machine(address)


@pytest.mark.parametrize("address", [None, "192.0.2.7", "::ffff:192.0.2.7", "::", "localhost", "127.0.0.1:80"])
def test_every_other_address_is_not(address: str | None) -> None:
    assert not of_this_machine(address)
