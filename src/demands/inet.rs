//! Addresses and ports of a network namespace.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;

use crate::proc::inet::{self, Protocol};

/// Addresses and TCP ports on which somebody in the network namespace of `pid` listens.
pub fn listening(pid: impl Display) -> BTreeSet<(IpAddr, u32)> {
    let listens = |socket: &inet::Inet| socket.protocol == Protocol::Tcp && socket.state == inet::LISTEN;
    inet::read(pid).into_iter().filter(listens).map(|socket| (socket.local.ip(), socket.local.port().into())).collect()
}

/// Addresses of this network namespace. None if the kernel does not tell, or lets everybody bind any.
pub fn addresses() -> Option<BTreeSet<IpAddr>> {
    let any =
        ["ipv4", "ipv6"].map(|family| std::fs::read_to_string(format!("/proc/sys/net/{family}/ip_nonlocal_bind")));
    if any.into_iter().flatten().any(|text| text.trim() != "0") {
        return None;
    }
    let all = nix::ifaddrs::getifaddrs().ok()?.filter_map(|interface| interface.address);
    let ip = |address: nix::sys::socket::SockaddrStorage| {
        let four = address.as_sockaddr_in().map(|four| IpAddr::from(four.ip()));
        four.or_else(|| address.as_sockaddr_in6().map(|six| IpAddr::from(six.ip())))
    };
    Some(all.filter_map(ip).collect())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn a_listener_has_its_port_and_loopback_is_here() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = (Ipv4Addr::LOCALHOST.into(), listener.local_addr().unwrap().port().into());
        assert!(listening("self").contains(&own));
        drop(listener);
        assert!(!listening("self").contains(&own));
        assert!(addresses().is_none_or(|all| all.contains(&Ipv4Addr::LOCALHOST.into())));
    }
}
