"""Which IP addresses the server may connect to on behalf of a client.

Knows: the address ranges of the internet. Does not know: host names, URLs, HTTP. The caller passes the address that is
about to be dialled.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

GLOBAL_UNICAST = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")
TEREDO = IPv6Network("2001::/32")
# `is_global` counts these ranges as public, but they must not be called
REFUSED_V4 = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
    IPv4Network("168.63.129.16/32"),  # the host agent of Azure's virtual machines
)
REFUSED_V6 = (
    IPv6Network("2001::/23"),  # protocol assignments, which include Teredo
    IPv6Network("2001:db8::/32"),
    IPv6Network("3fff::/20"),
)


def is_public(address: str) -> bool:
    """Whether `address`, which the operating system is about to dial, is on the public internet.

    The IPv4 address inside a mapped, NAT64 or 6to4 address must be public too; Teredo addresses never count as public.
    """
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, IPv4Address):
        return _is_public_v4(ip)
    if ip.ipv4_mapped is not None:
        return _is_public_v4(ip.ipv4_mapped)
    if ip in NAT64:
        return _is_public_v4(IPv4Address(int(ip) & 0xFFFFFFFF))
    if ip.sixtofour is not None and not _is_public_v4(ip.sixtofour):
        return False
    return _is_public_v6(ip)


def _is_public_v4(ip: IPv4Address) -> bool:
    return ip.is_global and not ip.is_multicast and not any(ip in net for net in REFUSED_V4)


def _is_public_v6(ip: IPv6Address) -> bool:
    if ip in TEREDO or ip not in GLOBAL_UNICAST:
        return False
    return ip.is_global and not any(ip in net for net in REFUSED_V6)
