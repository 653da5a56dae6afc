//! How downloads talk HTTP: limits and proxies.

use std::time::Duration;

use ureq::http::Uri;
use ureq::{Agent, Proxy};

use super::ImportContext;
use crate::error::{Error, ErrorKind, Result};
pub(super) use crate::host::url::shown;

/// How long finding and reaching a server may take.
const CONNECT: Duration = Duration::from_secs(30);
/// How long a server may say nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// An agent for requests of `url`.
pub(super) fn agent(url: &str, context: &ImportContext<'_>) -> Result<Agent> {
    let https = url.starts_with("https:");
    let config = Agent::config_builder()
        .proxy(proxy(url, context)?)
        .http_status_as_error(false)
        // A redirect must not take away what the author asked for.
        .https_only(https)
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .timeout_per_write(Some(SILENCE))
        .user_agent(concat!("virt-maker/", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(config.into())
}

/// The proxy for `url` by the usual variables, which the caller passed on. It has to allow `CONNECT`, also to port 80.
fn proxy(url: &str, context: &ImportContext<'_>) -> Result<Option<Proxy>> {
    let variable = |name: &str| {
        let value = context.env.get(name).or_else(|| context.env.get(&name.to_uppercase()));
        value.filter(|value| !value.is_empty())
    };
    let host = url.parse::<Uri>().ok().and_then(|url| url.host().map(str::to_owned)).unwrap_or_default();
    if variable("no_proxy").is_some_and(|list| is_listed(&host, list)) {
        return Ok(None);
    }
    let setting = if url.starts_with("https:") { "https_proxy" } else { "http_proxy" };
    let Some(text) = variable(setting) else { return Ok(None) };
    let proxy = Proxy::new(text).map_err(|source| {
        Error::new(ErrorKind::Host, format!("`{setting}` is not the address of a proxy")).with_source(source)
    })?;
    Ok(Some(proxy))
}

/// Whether a list of names with commas, as in `no_proxy`, covers a host.
fn is_listed(host: &str, list: &str) -> bool {
    let host = host.to_lowercase();
    list.split(',')
        .map(|name| name.trim().trim_start_matches("*.").trim_start_matches('.').to_lowercase())
        .any(|name| name == "*" || (!name.is_empty() && (host == name || host.ends_with(&format!(".{name}")))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::event::Events;
    use crate::host::Cancel;

    #[test]
    fn proxies_follow_the_usual_variables() {
        let env: BTreeMap<String, String> = [
            ("http_proxy", "http://proxy:3128"),
            ("HTTPS_PROXY", "http://secure:3129"),
            ("no_proxy", "localhost, .inside.test,*.also.test"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
        let (events, cancel) = (Events::none(), Cancel::default());
        let context = ImportContext { cache_dir: Path::new("/"), events: &events, cancel: &cancel, env: &env };
        let host = |url: &str| proxy(url, &context).unwrap().map(|proxy| proxy.host().to_owned());
        assert_eq!(host("http://outside.test/x").as_deref(), Some("proxy"));
        assert_eq!(host("https://user:pw@outside.test/x").as_deref(), Some("secure"));
        for url in ["http://localhost:80/", "https://a.inside.test", "http://INSIDE.test/", "http://b.also.test/"] {
            assert_eq!(host(url), None, "{url}");
        }
        assert_eq!(host("http://notinside.test/").as_deref(), Some("proxy"));
    }
}
