//! qemu's network in user mode, as the engines with a virtual machine use it.
//!
//! The machine is in a network of its own and reaches out through qemu, as the user who runs it. Nothing listens for it.
//! Link-local addresses, so that no network that a guest has to reach is hidden by this one.

use std::collections::BTreeMap;

use virt_maker_agent::appliance::{GATEWAY, NAME_SERVER};

/// The back end, for `-netdev`, without its name.
pub const NETDEV: &str = "user,net=169.254.2.0/24,host=169.254.2.2,dns=169.254.2.3,dhcpstart=169.254.2.15,ipv6=off";

/// The host's `resolv.conf` as it works behind qemu's user network: servers on the host's loopback are not there, so
/// qemu's own takes their place.
pub fn resolv_conf(text: Option<&str>) -> String {
    let nameserver = format!("nameserver {NAME_SERVER}\n");
    let Some(text) = text else { return nameserver };
    let mut out = String::new();
    let mut replaced = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let server = (words.next() == Some("nameserver")).then(|| words.next().unwrap_or_default());
        match server {
            // IPv6 is off behind qemu.
            Some(server) if server.starts_with("127.") || server.contains(':') => {
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

/// Proxies as they are reached behind qemu's user network: what listens on the host's loopback is at its gateway.
pub fn behind_qemu(env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let reachable = |name: &str, value: &str| match Proxy::of(name, value) {
        Some(proxy) if proxy.is_loopback() => format!("{}{GATEWAY}{}", proxy.before, proxy.after),
        _ => value.to_owned(),
    };
    env.iter().map(|(name, value)| (name.clone(), reachable(name, value))).collect()
}

/// Ports of the host's loopback where the user has a proxy that commands are to use.
pub fn loopback_ports(env: &BTreeMap<String, String>) -> Vec<u16> {
    let proxies = env.iter().filter_map(|(name, value)| Proxy::of(name, value));
    proxies.filter(Proxy::is_loopback).filter_map(|proxy| proxy.port()).collect()
}

/// The value of a variable that names a proxy, in three parts.
struct Proxy<'a> {
    before: &'a str,
    host: &'a str,
    after: &'a str,
}

impl<'a> Proxy<'a> {
    fn of(name: &str, value: &'a str) -> Option<Proxy<'a>> {
        let name = name.to_ascii_lowercase();
        if !name.ends_with("_proxy") || name == "no_proxy" {
            return None;
        }
        let start = value.find("://").map_or(0, |at| at + 3);
        let end = value[start..].find('/').map_or(value.len(), |at| start + at);
        // After the password, before the port.
        let start = value[start..end].rfind('@').map_or(start, |at| start + at + 1);
        let host = value[start..end].rsplit_once(':').map_or(&value[start..end], |(host, _)| host);
        Some(Proxy { before: &value[..start], host, after: &value[start + host.len()..] })
    }

    fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost") || self.host == "[::1]" || self.host.starts_with("127.")
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
    fn loopback_name_servers_become_qemu_s() {
        assert_eq!(resolv_conf(None), "nameserver 169.254.2.3\n");
        let text = "search a.example\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.1\noptions edns0\n";
        let want = "search a.example\nnameserver 169.254.2.3\nnameserver 192.0.2.1\noptions edns0\n";
        assert_eq!(resolv_conf(Some(text)), want);
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
            assert_eq!(behind_qemu(&env)[name], want);
        }
        let env =
            [("http_proxy", "http://me:p@127.0.0.1:3128/"), ("https_proxy", "localhost"), ("all_proxy", "http://p:9")];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(loopback_ports(&env), [3128, 80]);
    }
}
