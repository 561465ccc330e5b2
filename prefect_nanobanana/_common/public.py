"""Which addresses anybody may connect to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

Address = IPv4Address | IPv6Address

_NAT64 = ip_network("64:ff9b::/96")
_NOT_FOR_ALL = [
    ip_network("168.63.129.16/32"),  # Azure's platform, at an address that is otherwise public
    ip_network("192.0.0.0/24"),  # Oracle's metadata; older Pythons take most of it for public
    ip_network("100.64.0.0/10"),  # Alibaba's metadata and services among them
    ip_network("161.26.0.0/16"),  # IBM's services inside of its cloud
    ip_network("166.8.0.0/14"),  # the same
    ip_network("199.36.153.0/24"),  # Google's services inside of its cloud
    ip_network("192.88.99.0/24"),  # relays of 6to4, given up by RFC 7526
    ip_network("64:ff9b:1::/48"),  # NAT64 of a network's own, RFC 8215
    ip_network("100::/32"),  # discarded, RFC 6666 and 9780
    ip_network("2001::/23"),  # protocols' own, as Teredo, which stands for IPv4 addresses
    ip_network("3fff::/20"),  # for documentation, RFC 9637, which older Pythons take for public
    ip_network("5f00::/16"),  # segment routing, RFC 9602
]


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, also if an IPv6 address stands for it."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(IPv4Address(int(address) % 2**32))
        if address.is_site_local or (address.sixtofour and not is_public(address.sixtofour)):
            return False
    odd = address.is_multicast or address.is_reserved or any(address in n for n in _NOT_FOR_ALL)
    return address.is_global and not odd
