//! Fetching a URL to a file, resuming where an earlier attempt stopped.
//!
//! A partial download lies beside a note of what the server said the whole is (its `ETag` or `Last-Modified`). It is
//! continued only if the server confirms with `If-Range` that the whole is still the same; else it begins anew.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body, Proxy};

use super::ImportContext;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::Event;
use crate::key::Digest;

/// How often a transfer that breaks off is taken up again.
const ATTEMPTS: u32 = 5;
/// The wait before the first of them; it doubles.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a server may say nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// Fetches `url` into the cache and returns the file. A file that is there and whole is not fetched again unless
/// it was taken away.
pub(super) fn fetch(url: &str, context: &ImportContext<'_>) -> Result<PathBuf> {
    let folder = context.cache_dir.join("downloads");
    fs::create_dir_all(&folder).context(ErrorKind::Store, || format!("cannot make {}", folder.display()))?;
    let name = Digest::of(url.as_bytes()).to_string();
    let (part, note) = (folder.join(format!("{name}.part")), folder.join(format!("{name}.note")));
    let lock = File::create(folder.join(format!("{name}.lock")))
        .context(ErrorKind::Store, || format!("cannot write in {}", folder.display()))?;
    // Two builds that want the same URL: the second continues, or finds it whole.
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
        .context(ErrorKind::Store, || "cannot lock a download")?;
    let agent = agent(url, context)?;
    let mut attempt = 0;
    loop {
        context.cancel.check()?;
        match transfer(&agent, url, &part, &note, context) {
            Ok(()) => {
                let whole = folder.join(&name);
                fs::rename(&part, &whole).context(ErrorKind::Store, || format!("cannot rename {}", part.display()))?;
                let _ = fs::remove_file(&note);
                return Ok(whole);
            }
            Err(Broken::ForGood(error)) => return Err(error),
            Err(Broken::Maybe(error)) if attempt + 1 >= ATTEMPTS => return Err(error),
            Err(Broken::Maybe(error)) => {
                let message = crate::error::chain(&error);
                context.events.warn(format!("{message}; trying again"));
                std::thread::sleep(PAUSE * 2u32.pow(attempt));
                attempt += 1;
            }
        }
    }
}

/// Why a transfer did not end well.
enum Broken {
    /// Another attempt may succeed.
    Maybe(Error),
    /// It will not.
    ForGood(Error),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Broken {
        Broken::ForGood(error)
    }
}

fn agent(url: &str, context: &ImportContext<'_>) -> Result<Agent> {
    let variable = |name: &str| {
        let value = context.env.get(name).or_else(|| context.env.get(&name.to_uppercase()));
        value.filter(|value| !value.is_empty())
    };
    let host = url.split("://").nth(1).unwrap_or_default().split(['/', ':']).next().unwrap_or_default();
    let direct = variable("no_proxy").is_some_and(|list| {
        list.split(',')
            .map(|name| name.trim().trim_start_matches('.'))
            .any(|name| name == "*" || (!name.is_empty() && (host == name || host.ends_with(&format!(".{name}")))))
    });
    let setting = if url.starts_with("https:") { "https_proxy" } else { "http_proxy" };
    let proxy = match variable(setting).filter(|_| !direct) {
        None => None,
        Some(text) => Some(Proxy::new(text).map_err(|source| {
            Error::new(ErrorKind::Host, format!("`{setting}` is not the address of a proxy")).with_source(source)
        })?),
    };
    let config = Agent::config_builder()
        .proxy(proxy)
        .http_status_as_error(false)
        .timeout_connect(Some(SILENCE))
        .timeout_recv_response(Some(SILENCE))
        .user_agent(concat!("virt-maker/", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(config.into())
}

fn transfer(agent: &Agent, url: &str, part: &Path, note: &Path, context: &ImportContext<'_>) -> Result<(), Broken> {
    let failed = || format!("cannot write {}", part.display());
    let have = fs::metadata(part).map_or(0, |file| file.len());
    let validator = fs::read_to_string(note).ok().filter(|note| !note.is_empty() && have > 0);
    let mut request = agent.get(url);
    if let Some(validator) = &validator {
        request = request.header("Range", format!("bytes={have}-")).header("If-Range", validator);
    }
    let cannot = || format!("cannot fetch {url}");
    let response =
        request.call().map_err(|source| Broken::Maybe(Error::new(ErrorKind::Base, cannot()).with_source(source)))?;
    let status = response.status();
    let begin = match status {
        StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(have) => have,
        StatusCode::OK => 0,
        StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT => {
            let _ = fs::remove_file(note);
            let _ = fs::remove_file(part);
            let message = format!("{url} is no longer what it was when its download began");
            return Err(Broken::Maybe(Error::new(ErrorKind::Base, message)));
        }
        status => {
            let error = Error::new(ErrorKind::Base, format!("{}: the server says {status}", cannot()));
            let later = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            return Err(if later { Broken::Maybe(error) } else { Broken::ForGood(error) });
        }
    };
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    // A weak ETag says nothing about bytes.
    let validator = header("etag").filter(|tag| !tag.starts_with("W/")).or_else(|| header("last-modified"));
    let total = header("content-length").and_then(|text| text.parse::<u64>().ok()).map(|length| length + begin);
    fs::write(note, validator.unwrap_or_default()).context(ErrorKind::Store, failed)?;
    let mut file =
        OpenOptions::new().create(true).write(true).truncate(false).open(part).context(ErrorKind::Store, failed)?;
    file.set_len(begin).and_then(|()| file.seek(SeekFrom::End(0))).context(ErrorKind::Store, failed)?;
    receive(response, &mut file, begin, total, url, context)
}

fn receive(
    response: Response<Body>,
    file: &mut File,
    begin: u64,
    total: Option<u64>,
    url: &str,
    context: &ImportContext<'_>,
) -> Result<(), Broken> {
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 256 << 10];
    let mut done = begin;
    loop {
        context.cancel.check()?;
        let count = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(source) => {
                let message = format!("the download of {url} broke off after {done} bytes");
                return Err(Broken::Maybe(Error::new(ErrorKind::Base, message).with_source(source)));
            }
        };
        file.write_all(&buffer[..count]).context(ErrorKind::Store, || "cannot write the download")?;
        done += count as u64;
        context.events.send(Event::Progress { what: "download".into(), done, total, unit: "bytes" });
    }
    match total {
        Some(total) if total != done => {
            let message = format!("the download of {url} ended after {done} of {total} bytes");
            Err(Broken::Maybe(Error::new(ErrorKind::Base, message)))
        }
        _ => Ok(()),
    }
}

fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
