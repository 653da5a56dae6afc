//! The network in user mode that commands are in, on every engine.
//!
//! It is a network of their own, and they reach out through a process of the host (qemu, `slirp4netns`), as its user,
//! and through our gate before it. Nothing listens for them. Its addresses are link-local, which [the gate] keeps
//! commands from, so that no network that they have to reach is hidden by this one.
//!
//! [the gate]: super::gate

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};
use virt_maker_agent::appliance::{ADDRESS, GATEWAY, NAME_SERVER};

use crate::host::address;

/// The network, with its gateway and its name server as [`virt_maker_agent::appliance`] has them.
pub const NETWORK: &str = "169.254.2.0/24";
/// The back end of qemu, for `-netdev`, without its name.
pub const NETDEV: &str = "user,net=169.254.2.0/24,host=169.254.2.2,dns=169.254.2.3,dhcpstart=169.254.2.15,ipv6=off";

/// The same for `netdev_add`, under a name.
pub fn netdev(id: &str) -> Value {
    json!({
        "type": "user", "id": id, "net": NETWORK, "host": GATEWAY, "dns": NAME_SERVER, "dhcpstart": ADDRESS, "ipv6": false,
    })
}

/// The host's `resolv.conf` as it works in there: the network's own name server, which asks those of the host, takes
/// the place of those that only the host reaches, and of those with an address of IPv6.
pub fn resolv_conf(text: Option<&str>) -> String {
    let only_hosts = |server: &str| match server.parse() {
        Ok(IpAddr::V4(server)) => address::guarded(server.into(), address::is_home).is_some(),
        Ok(IpAddr::V6(_)) => true,
        // With a zone, as `fe80::1%eth0` has one.
        Err(_) => server.contains(':'),
    };
    let nameserver = format!("nameserver {NAME_SERVER}\n");
    let Some(text) = text else { return nameserver };
    let mut out = String::new();
    let mut replaced = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let server = (words.next() == Some("nameserver")).then(|| words.next().unwrap_or_default());
        match server {
            Some(server) if only_hosts(server) => {
                if !replaced {
                    out.push_str(&nameserver);
                    replaced = true;
                }
            }
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

/// Proxies as they are reached from in there: what listens on the host's loopback is at the gateway.
pub fn proxies_behind_it(env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let reachable = |name: &str, value: &str| match Proxy::of(name, value) {
        Some(proxy) if proxy.is_loopback() => format!("{}{GATEWAY}{}", proxy.before, proxy.after),
        _ => value.to_owned(),
    };
    env.iter().map(|(name, value)| (name.clone(), reachable(name, value))).collect()
}

/// The value of a variable that names a proxy, in three parts.
pub struct Proxy<'a> {
    before: &'a str,
    host: &'a str,
    after: &'a str,
}

impl<'a> Proxy<'a> {
    /// Of a variable and its value; none where that names no proxy.
    pub fn of(name: &str, value: &'a str) -> Option<Proxy<'a>> {
        let name = name.to_ascii_lowercase();
        if !name.ends_with("_proxy") || name == "no_proxy" {
            return None;
        }
        let start = value.find("://").map_or(0, |at| at + 3);
        let end = value[start..].find('/').map_or(value.len(), |at| start + at);
        // After the password, before the port.
        let start = value[start..end].rfind('@').map_or(start, |at| start + at + 1);
        let place = &value[start..end];
        let host = match place.find(']') {
            Some(bracket) => &place[..=bracket],
            None => place.rsplit_once(':').map_or(place, |(host, _)| host),
        };
        Some(Proxy { before: &value[..start], host, after: &value[start + host.len()..] })
    }

    fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost") || self.host == "[::1]" || self.host.starts_with("127.")
    }

    /// Its host, by name or by address, and its port.
    pub fn service(&self) -> Option<(String, u16)> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then_some((host.to_owned(), self.port()?))
    }

    /// The port that it says, or that goes without saying.
    fn port(&self) -> Option<u16> {
        match self.after.split('/').next().unwrap_or_default() {
            "" if self.before.starts_with("https:") => Some(443),
            "" if self.before.starts_with("socks") => Some(1080),
            "" => Some(80),
            text => text.strip_prefix(':')?.parse().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_say_it_are_one() {
        let said = netdev("any");
        for word in NETDEV.split(',').skip(1) {
            let (name, value) = word.split_once('=').unwrap();
            assert_eq!(said[name].as_str().unwrap_or("off"), value, "{name}");
        }
        assert_eq!(said["type"], "user");
    }

    #[test]
    fn name_servers_that_only_the_host_reaches_are_replaced() {
        assert_eq!(resolv_conf(None), "nameserver 169.254.2.3\n");
        let text = "search a.example\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.1\noptions edns0\n";
        let want = "search a.example\nnameserver 169.254.2.3\nnameserver 192.0.2.1\noptions edns0\n";
        assert_eq!(resolv_conf(Some(text)), want);
        // Those of clouds, which are at the address of the host's credentials.
        for server in ["169.254.169.254", "169.254.169.253", "168.63.129.16", "fe80::1%eth0"] {
            assert_eq!(resolv_conf(Some(&format!("nameserver {server}\n"))), "nameserver 169.254.2.3\n");
        }
    }

    #[test]
    fn proxies_on_the_host_are_reached_through_the_gateway() {
        for (name, value, want) in [
            ("http_proxy", "http://127.0.0.1:3128/", "http://169.254.2.2:3128/"),
            ("HTTPS_PROXY", "http://me:p@localhost:3128", "http://me:p@169.254.2.2:3128"),
            ("http_proxy", "localhost", "169.254.2.2"),
            ("http_proxy", "http://[::1]:8080", "http://169.254.2.2:8080"),
            ("http_proxy", "http://proxy.example:3128/localhost", "http://proxy.example:3128/localhost"),
            ("no_proxy", "localhost,127.0.0.1", "localhost,127.0.0.1"),
        ] {
            let env = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            assert_eq!(proxies_behind_it(&env)[name], want);
        }
        let service = |name, value| Proxy::of(name, value)?.service();
        let named = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(service("http_proxy", "http://me:p@127.0.0.1:3128/"), named("127.0.0.1", 3128));
        assert_eq!(service("https_proxy", "localhost"), named("localhost", 80));
        assert_eq!(service("all_proxy", "socks5://[::1]"), named("::1", 1080));
        assert_eq!(service("no_proxy", "localhost"), None);
    }
}
