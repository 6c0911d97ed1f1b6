"""Where a caller without a key comes from: the network that its rate limit is counted for, or this machine."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

IPV6_PREFIX = 64  # what one customer of a provider has; an IPv4 address counts by itself
UNKNOWN = "unknown"


def network_of(address: str | None) -> str:
    """The network of an address, in one spelling; what is no address is `unknown`."""
    match _parsed(address):
        case IPv6Address() as long:
            return ip_network((int(long), IPV6_PREFIX), strict=False).with_prefixlen
        case IPv4Address() as short:
            return str(short)
        case _:
            return UNKNOWN


def of_this_machine(address: str | None) -> bool:
    """Whether it is a loopback address, be it one of IPv4 on a socket of IPv6."""
    parsed = _parsed(address)
    return parsed is not None and parsed.is_loopback


def _parsed(address: str | None) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address((address or "").partition("%")[0])
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed
