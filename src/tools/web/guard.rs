//! Which addresses a tool may reach: public ones, and those that the host allows. A model chooses the URLs, so it must not
//! come to what only this machine or its network can reach.
//!
//! A name is resolved once for each request, every address of it is judged, and the connection goes to those addresses and no
//! others, whatever the name resolves to a moment later.
//!
//! Sources: IANA's special-purpose address registries for IPv4 and IPv6; RFC 6052 (NAT64), RFC 3056 (6to4), RFC 4380 (Teredo).

use crate::config::Place;
use futures_util::future::BoxFuture;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Finds the addresses of names.
pub trait Resolve: Send + Sync {
    /// The addresses of a host.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// The resolver of the operating system.
pub struct System;

impl Resolve for System {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(crate::types::lookup(host, port))
    }
}

/// Whether an address may be reached.
pub fn is_open(allow: &[Place], host: &str, address: SocketAddr) -> bool {
    let port = address.port();
    is_public(address.ip())
        || allow.iter().any(|place| place.has_address(address.ip(), port) || place.has_host(host, port))
}

/// Whether an address is one that everybody on the Internet reaches.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(a == 0
        || a == 10
        || a == 127
        // From here on nothing is one host of the Internet: multicast, reserved, broadcast.
        || a >= 224
        // Shared by carriers.
        || (a == 100 && (64..128).contains(&b))
        // Link-local: the metadata services of clouds.
        || (a == 169 && b == 254)
        || (a == 172 && (16..32).contains(&b))
        || (a == 192 && b == 168)
        // Protocol assignments, documentation, relays of 6to4.
        || (a == 192 && b == 0 && (c == 0 || c == 2))
        || (a == 192 && b == 88 && c == 99)
        // Benchmarks.
        || (a == 198 && (b == 18 || b == 19))
        || (a == 198 && b == 51 && c == 100)
        || (a == 203 && b == 0 && c == 113))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let [a, b, c, d, e, f, g, h] = segments;
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match segments {
        // Mapped, and translated by the prefix that everybody knows: the address inside counts.
        [0, 0, 0, 0, 0, 0xffff, ..] => is_public_v4(v4(g, h)),
        _ if (a, b, c, d, e, f) == (0x64, 0xff9b, 0, 0, 0, 0) => is_public_v4(v4(g, h)),
        // Global unicast, but for what is not: protocol assignments with Teredo, documentation, 6to4.
        _ => {
            (0x2000..0x4000).contains(&a)
                && !(a == 0x2001 && (b < 0x200 || b == 0xdb8))
                && a != 0x2002
                && !(a == 0x3fff && b < 0x1000)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_public_text(text: &str) -> bool {
        is_public(text.parse().unwrap())
    }

    #[test]
    fn what_is_not_public_is_known() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::808:808",
            "100::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2002:808:808::1",
            "3fff::1",
            "3fff:fff::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
        ] {
            assert!(!is_public_text(address), "{address}");
        }
    }

    #[test]
    fn what_is_public_is_reached() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.1",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.1.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2606:4700:4700::1111",
            "2a00:1450::1",
            "2001:4860:4860::8888",
            "2001:200::1",
            "2003::1",
            "3ffe::1",
        ] {
            assert!(is_public_text(address), "{address}");
        }
    }

    #[test]
    fn what_the_host_allows_is_open_at_that_port_alone() {
        let allow: Vec<_> = ["127.0.0.1:80", "wiki.internal"].iter().map(|text| Place::parse(text).unwrap()).collect();
        let open = |host: &str, address: &str| is_open(&allow, host, address.parse().unwrap());
        assert!(open("127.0.0.1", "127.0.0.1:80") && open("any.example", "127.0.0.1:80"));
        assert!(!open("127.0.0.1", "127.0.0.1:81") && !open("127.0.0.2", "127.0.0.2:80"));
        assert!(open("wiki.internal", "10.0.0.1:443") && !open("other.internal", "10.0.0.1:443"));
        assert!(open("example.org", "93.184.216.34:443"));
    }

    /// The first and the last address of each class are not public, and those around it are, unless another class begins there.
    #[test]
    fn classes_begin_and_end_where_they_should() {
        use ipnet::{Ipv4Net, Ipv6Net};
        let v4: Vec<Ipv4Net> = [
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",
        ]
        .map(|class| class.parse().unwrap())
        .to_vec();
        for class in &v4 {
            let (first, last) = (u32::from(class.network()), u32::from(class.broadcast()));
            let around = [first.wrapping_sub(1), first, last, last.wrapping_add(1)].map(Ipv4Addr::from);
            for address in around {
                let is_public = !v4.iter().any(|class| class.contains(&address));
                assert_eq!(is_public_v4(address), is_public, "{address} beside {class}");
                assert_eq!(is_public_v6(address.to_ipv6_mapped()), is_public, "mapped {address}");
            }
        }
        let v6: Vec<Ipv6Net> = ["2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "::/3", "4000::/2", "8000::/1"]
            .map(|class| class.parse().unwrap())
            .to_vec();
        for class in &v6 {
            let (first, last) = (u128::from(class.network()), u128::from(class.broadcast()));
            for address in [first.wrapping_sub(1), first, last, last.wrapping_add(1)].map(Ipv6Addr::from) {
                let is_public = !v6.iter().any(|class| class.contains(&address));
                assert_eq!(is_public_v6(address), is_public, "{address} beside {class}");
            }
        }
    }
}
