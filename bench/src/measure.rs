//! Programs that are timed: wall time, and the time at which each line of their output came.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Why a measure could not be made, for people.
pub type Failure = String;

/// What came of a timed program.
pub struct Timed {
    /// From before it was started until it was gone.
    pub wall: Duration,
    /// Each line of its standard output, with the time since the start at which it came.
    pub lines: Vec<(Duration, String)>,
    /// The most memory that the process itself ever had in RAM, as last seen before it ended; bytes.
    ///
    /// Read from `VmHWM` at every line of output: the `ru_maxrss` of `wait4` would also cover the helpers it waited for.
    pub peak_memory: Option<u64>,
}

/// Runs a program to its end. A status other than 0 is a failure with the end of its output.
pub fn run(command: &mut Command) -> Result<Timed, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let begin = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start {name}: {error}"))?;
    let errors = drain(child.stderr.take().ok_or("no stderr")?);
    let mut lines = Vec::new();
    let mut peak_memory = None;
    for line in BufReader::new(child.stdout.take().ok_or("no stdout")?).split(b'\n') {
        let line = line.map_err(|error| format!("cannot read the output of {name}: {error}"))?;
        lines.push((begin.elapsed(), String::from_utf8_lossy(&line).into_owned()));
        peak_memory = high_water_mark(&child).or(peak_memory);
    }
    let status = child.wait().map_err(|error| format!("cannot wait for {name}: {error}"))?;
    let wall = begin.elapsed();
    let errors = errors.join().map_err(|_| "a reader panicked".to_owned())?;
    if status.success() {
        return Ok(Timed { wall, lines, peak_memory });
    }
    let said: Vec<_> = lines.iter().map(|(_, line)| line.as_str()).chain(errors.lines()).collect();
    Err(format!("{name}: {status}\n{}", said[said.len().saturating_sub(15)..].join("\n")))
}

/// Runs a program until its standard output has these words, and ends it; the time from before it was started until they came.
pub fn until(command: &mut Command, words: &str, limit: Duration) -> Result<Duration, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let begin = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| format!("cannot start {name}: {error}"))?;
    let errors = drain(child.stderr.take().ok_or("no stderr")?);
    let mut output = child.stdout.take().ok_or("no stdout")?;
    let (sender, heard) = std::sync::mpsc::channel();
    let wanted = words.to_owned();
    let reader = std::thread::spawn(move || {
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = output.read(&mut buffer) {
            said.extend_from_slice(&buffer[..count]);
            if said.windows(wanted.len()).any(|window| window == wanted.as_bytes()) {
                let _ = sender.send(begin.elapsed());
                break;
            }
        }
        String::from_utf8_lossy(&said).into_owned()
    });
    let took = heard.recv_timeout(limit);
    // It may have ended by itself.
    let _ = child.kill();
    child.wait().map_err(|error| format!("cannot wait for {name}: {error}"))?;
    let (said, errors) = (reader.join().unwrap_or_default(), errors.join().unwrap_or_default());
    let last: Vec<_> = said.lines().chain(errors.lines()).collect();
    took.map_err(|_| format!("{name} never said `{words}`\n{}", last[last.len().saturating_sub(15)..].join("\n")))
}

fn drain(mut stream: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came until an error is all that there is to show.
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn high_water_mark(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Runs a measure `times` times; every run counts, and the first failure ends it.
pub fn repeat<T>(times: usize, mut measure: impl FnMut(usize) -> Result<T, Failure>) -> Result<Vec<T>, Failure> {
    (0..times).map(&mut measure).collect()
}

/// The middle one, in seconds.
pub fn median(values: impl IntoIterator<Item = Duration>) -> Result<f64, Failure> {
    let mut seconds: Vec<_> = values.into_iter().map(|value| value.as_secs_f64()).collect();
    if seconds.is_empty() {
        return Err("nothing was measured".to_owned());
    }
    seconds.sort_by(f64::total_cmp);
    let middle = seconds.len() / 2;
    Ok(if seconds.len() % 2 == 1 { seconds[middle] } else { (seconds[middle - 1] + seconds[middle]) / 2.0 })
}

/// The time that a script said of itself: a line `took N ns`.
pub fn took(output: &str) -> Option<Duration> {
    let parse = |line: &str| line.trim().strip_prefix("took ")?.strip_suffix(" ns")?.parse().ok();
    output.lines().find_map(parse).map(Duration::from_nanos)
}
