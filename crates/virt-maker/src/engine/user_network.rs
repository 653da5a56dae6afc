//! qemu's network in user mode, as the engines with a virtual machine use it.
//!
//! The machine is in a network of its own and reaches out through qemu, as the user who runs it. Nothing listens for it.
//! Link-local addresses, so that no network that a guest has to reach is hidden by this one.

use std::collections::BTreeMap;

/// The back end, for `-netdev`, without its name.
pub const NETDEV: &str = "user,net=169.254.2.0/24,host=169.254.2.2,dns=169.254.2.3,dhcpstart=169.254.2.15,ipv6=off";
/// Name server of the network, which asks the host's resolver.
pub const DNS: &str = "169.254.2.3";
/// The host, as the network shows it.
pub const GATEWAY: &str = "169.254.2.2";

/// The host's `resolv.conf` as it works behind qemu's user network: servers on the host's loopback are not there, so
/// qemu's own takes their place.
pub fn resolv_conf(text: Option<&str>) -> String {
    let nameserver = format!("nameserver {DNS}\n");
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
    let reachable = |value: &str| {
        let start = value.find("://").map_or(0, |at| at + 3);
        let end = value[start..].find('/').map_or(value.len(), |at| start + at);
        // After the password, before the port.
        let start = value[start..end].rfind('@').map_or(start, |at| start + at + 1);
        let host = value[start..end].rsplit_once(':').map_or(&value[start..end], |(host, _)| host);
        let loopback = host.eq_ignore_ascii_case("localhost") || host == "[::1]" || host.starts_with("127.");
        match loopback {
            true => format!("{}{GATEWAY}{}", &value[..start], &value[start + host.len()..]),
            false => value.to_owned(),
        }
    };
    let proxy = |name: &str| name.to_ascii_lowercase().ends_with("_proxy") && !name.eq_ignore_ascii_case("no_proxy");
    env.iter().map(|(name, value)| (name.clone(), if proxy(name) { reachable(value) } else { value.clone() })).collect()
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
    }
}
