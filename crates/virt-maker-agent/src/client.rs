//! The host's end of the protocol.
//!
//! What must hold: the agent has read what a guest wrote, so nothing that it sends is trusted. Frames are bounded, a
//! reply that does not belong to the request ends the conversation, and a conversation that has ended stays ended
//! ([`ClientError::Closed`] from then on), since its two ends no longer agree on where they are.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};

use crate::label::Labelled;
use crate::protocol::{
    Attributes, Exit, Failure, Frame, Mounted, Reply, Request, Root, Run, Space, Stat, read_frame, write_data,
    write_message,
};
use crate::walk::Entry;

/// Bytes in a data frame of a transfer.
const CHUNK: usize = 256 * 1024;
/// The longest listing that is taken, in bytes: some millions of files.
const WALK_MAX: usize = 512 << 20;
/// How many notes come with a run at most, and how many bytes one has.
const NOTES_MAX: usize = 64;
const NOTE_MAX: usize = 4096;

/// A conversation with an agent.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    /// Set by the first error after which the two ends may disagree.
    ended: bool,
    /// What has come of the answer to a hello, while it is not whole.
    begun: Vec<u8>,
}

/// Why a request came to nothing.
#[derive(Debug)]
pub enum ClientError {
    /// The agent could not do it; the conversation goes on.
    Failed(Failure),
    /// The host's own data could not be read or written; the conversation goes on.
    Local(io::Error),
    /// The agent said what the protocol does not allow; the text says what. The conversation is over.
    Protocol(String),
    /// The stream broke. The conversation is over.
    Stream(io::Error),
    /// The agent is gone, or an earlier error ended the conversation.
    Closed,
}

impl fmt::Display for ClientError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Failed(failure) => out.write_str(&failure.message),
            ClientError::Local(_) => out.write_str("the host's end of a transfer failed"),
            ClientError::Protocol(what) => write!(out, "the agent broke the protocol: {what}"),
            ClientError::Stream(_) => out.write_str("the connection to the agent broke"),
            ClientError::Closed => out.write_str("the agent is gone"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ClientError::Local(error) | ClientError::Stream(error) => Some(error),
            _ => None,
        }
    }
}

/// What a client's calls give.
pub type Result<T> = std::result::Result<T, ClientError>;

impl Client {
    /// A client on a stream whose other end an agent holds. Say [`hello`](Client::hello) first.
    pub fn new(stream: UnixStream) -> Client {
        Client { stream, ended: false, begun: Vec::new() }
    }

    /// The stream, to wait on or to shut down (which ends a request that is under way in another thread).
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends a request that no data goes with, and gives its reply ([`Reply::Failed`] becomes an error).
    pub fn call(&mut self, request: &Request) -> Result<Reply> {
        self.send(request)?;
        self.finish()
    }

    /// As [`call`](Client::call), for a request that is answered by [`Reply::Done`].
    pub fn done(&mut self, request: &Request) -> Result<()> {
        match self.call(request)? {
            Reply::Done => Ok(()),
            other => self.unexpected("a request", &other),
        }
    }

    /// Makes what no file system uses read as zeroes; gives the types of those of which something may be left.
    pub fn erase(&mut self) -> Result<Vec<String>> {
        match self.call(&Request::Erase)? {
            Reply::Names { names } => Ok(names),
            other => self.unexpected("an erasure", &other),
        }
    }

    /// What is wrong with what was written to fstab, as [`Request::FstabNews`].
    pub fn fstab_news(&mut self) -> Result<Vec<String>> {
        match self.call(&Request::FstabNews)? {
            Reply::Names { names } => Ok(names),
            other => self.unexpected("a look at fstab", &other),
        }
    }

    /// Mounts the guest on `disk`, a path as the agent sees it.
    pub fn mount(&mut self, disk: &str) -> Result<Mounted> {
        self.mount_as(disk, false, None)
    }

    /// As [`mount`](Client::mount); `to_mend` and `root` as in [`Request::Mount`].
    pub fn mount_as(&mut self, disk: &str, to_mend: bool, root: Option<&Root>) -> Result<Mounted> {
        match self.call(&Request::Mount { disk: disk.to_string(), to_mend, root: root.cloned() })? {
            Reply::Mounted(mounted) => Ok(mounted),
            other => self.unexpected("mount", &other),
        }
    }

    /// Takes the system that the agent runs in as the guest.
    pub fn running(&mut self) -> Result<Mounted> {
        match self.call(&Request::Running)? {
            Reply::Mounted(mounted) => Ok(mounted),
            other => self.unexpected("running", &other),
        }
    }

    /// Connects to a TCP port of the machine that the agent runs in, and says a text; gives what is answered until the other side
    /// closes, or until some seconds have passed; `limit` bytes of it at most.
    pub fn talk(&mut self, port: u16, text: &str, seconds: u64, limit: usize) -> Result<Vec<u8>> {
        self.send(&Request::Talk { port, text: text.to_owned(), seconds })?;
        let mut said = Vec::new();
        self.take(|bytes| {
            said.extend_from_slice(&bytes[..bytes.len().min(limit - said.len())]);
            Ok(())
        })?;
        Ok(said)
    }

    /// Says what is at a path; `None` where nothing is.
    pub fn stat(&mut self, path: &str) -> Result<Option<Stat>> {
        match self.call(&Request::Stat { path: path.to_string() })? {
            Reply::Stat { stat } => Ok(stat),
            other => self.unexpected("stat", &other),
        }
    }

    /// How much room the file system has that a path is on.
    pub fn space(&mut self, path: &str) -> Result<Space> {
        match self.call(&Request::Space { path: path.to_string() })? {
            Reply::Space(space) => Ok(space),
            other => self.unexpected("space", &other),
        }
    }

    /// Names in a folder, sorted. They are file names, never paths.
    pub fn read_dir(&mut self, path: &str) -> Result<Vec<String>> {
        match self.call(&Request::ReadDir { path: path.to_string() })? {
            Reply::Names { names } => {
                match names.iter().find(|name| name.contains(['/', '\0']) || matches!(name.as_str(), "" | "." | "..")) {
                    Some(name) => self.violation(format!("{name:?} as a file name")),
                    None => Ok(names),
                }
            }
            other => self.unexpected("read_dir", &other),
        }
    }

    /// Runs a program; `on_output` gets its output as it comes. For [`Run::terminal`] see
    /// [`terminal`](Client::terminal).
    pub fn run(&mut self, run: &Run, on_output: &mut dyn FnMut(&[u8])) -> Result<Exit> {
        self.run_noting(run, on_output, &mut |_| ())
    }

    /// As [`run`](Client::run); `on_note` gets what the person should know.
    pub fn run_noting(
        &mut self,
        run: &Run,
        on_output: &mut dyn FnMut(&[u8]),
        on_note: &mut dyn FnMut(&str),
    ) -> Result<Exit> {
        self.send(&Request::Run(run.clone()))?;
        let mut notes = 0;
        loop {
            match self.receive()? {
                Frame::Data(bytes) => on_output(&bytes),
                Frame::Message(Reply::Note { text }) if notes < NOTES_MAX && text.len() <= NOTE_MAX => {
                    notes += 1;
                    on_note(&text);
                }
                Frame::Message(Reply::Note { .. }) => return self.violation("more notes than a run has".to_string()),
                Frame::Message(reply) => return self.exited(reply),
            }
        }
    }

    /// Runs a program on a pseudo-terminal ([`Run::terminal`] must be set) between `input` and `output`, which are
    /// usually a terminal in raw mode. The end of `input` hangs the program's terminal up.
    pub fn terminal(&mut self, run: &Run, input: BorrowedFd<'_>, output: &mut dyn Write) -> Result<Exit> {
        self.send(&Request::Run(run.clone()))?;
        let mut listening = true;
        let mut buffer = [0; 4096];
        let mut shown = Ok(());
        loop {
            let stream = self.stream.as_fd();
            let mut ends = [PollFd::new(&stream, PollFlags::IN), PollFd::new(&input, PollFlags::IN)];
            let count = if listening { 2 } else { 1 };
            match poll(&mut ends[..count], None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(ClientError::Local(error.into())),
            }
            let (replied, typed) = (!ends[0].revents().is_empty(), listening && !ends[1].revents().is_empty());
            if typed {
                let count = match rustix::io::read(input, &mut buffer) {
                    Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
                    Ok(count) => count,
                    // A terminal that was closed reads as an I/O error; both are the end.
                    Err(_) => 0,
                };
                listening = count > 0;
                self.transfer(&buffer[..count])?;
            }
            if replied {
                match self.receive()? {
                    // Output that cannot be shown is read on nevertheless, or the program would hang.
                    Frame::Data(bytes) => {
                        shown = shown.and_then(|()| output.write_all(&bytes).and_then(|()| output.flush()))
                    }
                    // It was in the output, too.
                    Frame::Message(Reply::Note { .. }) => {}
                    Frame::Message(reply) => {
                        let exit = self.exited(reply)?;
                        return shown.map(|()| exit).map_err(ClientError::Local);
                    }
                }
            }
        }
    }

    /// Reads a file of at most `limit` bytes.
    pub fn read(&mut self, path: &str, limit: u64) -> Result<Vec<u8>> {
        self.send(&Request::Read { path: path.to_string(), limit: Some(limit) })?;
        let mut content = Vec::new();
        loop {
            match self.receive()? {
                Frame::Data(bytes) if bytes.is_empty() => match self.finish()? {
                    Reply::Done => return Ok(content),
                    other => return self.unexpected("read", &other),
                },
                Frame::Data(bytes) if (content.len() + bytes.len()) as u64 > limit => {
                    return self.violation(format!("more than {limit} bytes of a file"));
                }
                Frame::Data(bytes) => content.extend_from_slice(&bytes),
                Frame::Message(Reply::Failed(failure)) => return Err(ClientError::Failed(failure)),
                Frame::Message(other) => return self.unexpected("read", &other),
            }
        }
    }

    /// Writes the whole tree to `target` as a tar stream. Where `target` fails, the rest is read and dropped.
    pub fn archive(&mut self, target: &mut dyn Write) -> Result<()> {
        self.send(&Request::Archive)?;
        let mut written = Ok(());
        self.take(|bytes| {
            if written.is_ok() {
                written = target.write_all(bytes);
            }
            Ok(())
        })?;
        written.map_err(ClientError::Local)
    }

    /// Reads a file of any size into `out`; returns its length. Where `out` fails, the rest is read and dropped.
    pub fn read_to(&mut self, path: &str, out: &mut dyn Write) -> Result<u64> {
        self.send(&Request::Read { path: path.to_string(), limit: None })?;
        let (mut length, mut written) = (0, Ok(()));
        self.take(|bytes| {
            length += bytes.len() as u64;
            if written.is_ok() {
                written = out.write_all(bytes);
            }
            Ok(())
        })?;
        written.map(|()| length).map_err(ClientError::Local)
    }

    /// Everything at and below a path, in no particular order; entries that are no good end the conversation.
    pub fn walk(&mut self, path: &str, depth: Option<u32>) -> Result<Vec<Entry>> {
        self.listing(&Request::Walk { path: path.to_string(), depth }, Entry::decode)
    }

    /// The SELinux labels of all files that can have one, in no particular order.
    pub fn labels(&mut self) -> Result<Vec<Labelled>> {
        self.listing(&Request::Labels, Labelled::decode)
    }

    /// Takes entries, of which each frame holds whole ones.
    fn listing<T>(&mut self, request: &Request, decode: fn(&mut &[u8]) -> Option<T>) -> Result<Vec<T>> {
        self.send(request)?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        self.take(|mut frame| {
            bytes += frame.len();
            if bytes > WALK_MAX {
                return Err(format!("more than {WALK_MAX} bytes of names"));
            }
            while !frame.is_empty() {
                entries.push(decode(&mut frame).ok_or("an entry that cannot be read")?);
            }
            Ok(())
        })?;
        Ok(entries)
    }

    /// Gives files their SELinux labels, in this order.
    pub fn set_labels(&mut self, labels: &[Labelled]) -> Result<()> {
        self.send(&Request::SetLabels)?;
        let mut frame = Vec::with_capacity(CHUNK);
        for entry in labels {
            entry.encode(&mut frame);
            if frame.len() >= CHUNK {
                self.transfer(&frame)?;
                frame.clear();
            }
        }
        if !frame.is_empty() {
            self.transfer(&frame)?;
        }
        self.transfer(&[])?;
        match self.finish()? {
            Reply::Done => Ok(()),
            other => self.unexpected("labels", &other),
        }
    }

    /// Takes the data frames of a transfer and its final reply.
    fn take(&mut self, mut on_data: impl FnMut(&[u8]) -> std::result::Result<(), String>) -> Result<()> {
        loop {
            match self.receive()? {
                Frame::Data(bytes) if bytes.is_empty() => match self.finish()? {
                    Reply::Done => return Ok(()),
                    other => return self.unexpected("a transfer", &other),
                },
                Frame::Data(bytes) => {
                    if let Err(problem) = on_data(&bytes) {
                        return self.violation(problem);
                    }
                }
                Frame::Message(Reply::Failed(failure)) => return Err(ClientError::Failed(failure)),
                Frame::Message(other) => return self.unexpected("a transfer", &other),
            }
        }
    }

    /// Creates or replaces a file with what `content` gives.
    pub fn write(&mut self, path: &str, content: &mut dyn Read, attributes: Attributes) -> Result<()> {
        self.write_as(&Request::Write { path: path.to_string(), attributes, in_place: false }, content)
    }

    /// Gives a file another content, and leaves all else of it.
    pub fn rewrite(&mut self, path: &str, content: &mut dyn Read) -> Result<()> {
        let request = Request::Write { path: path.to_string(), attributes: Attributes::default(), in_place: true };
        self.write_as(&request, content)
    }

    fn write_as(&mut self, request: &Request, content: &mut dyn Read) -> Result<()> {
        self.send(request)?;
        let mut buffer = vec![0; CHUNK];
        loop {
            match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => self.transfer(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.send(&Request::Cancel)?;
                    return match self.finish() {
                        Err(ClientError::Failed(_)) => Err(ClientError::Local(error)),
                        Err(other) => Err(other),
                        Ok(other) => self.unexpected("a cancelled write", &other),
                    };
                }
            }
        }
        self.transfer(&[])?;
        match self.finish()? {
            Reply::Done => Ok(()),
            other => self.unexpected("write", &other),
        }
    }

    fn send(&mut self, request: &Request) -> Result<()> {
        if self.ended {
            return Err(ClientError::Closed);
        }
        match write_message(&mut self.stream, request) {
            Ok(()) => Ok(()),
            // Refused before a byte was sent: the request is too long.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(ClientError::Local(error)),
            Err(error) => self.broke(error),
        }
    }

    fn transfer(&mut self, bytes: &[u8]) -> Result<()> {
        write_data(&mut self.stream, bytes).or_else(|error| self.broke(error))
    }

    fn receive(&mut self) -> Result<Frame<Reply>> {
        match read_frame(&mut self.stream) {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => {
                self.ended = true;
                Err(ClientError::Closed)
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => self.violation(error.to_string()),
            Err(error) => self.broke(error),
        }
    }

    /// Receives the final reply.
    fn finish(&mut self) -> Result<Reply> {
        match self.receive()? {
            Frame::Message(Reply::Failed(failure)) => Err(ClientError::Failed(failure)),
            Frame::Message(reply) => Ok(reply),
            Frame::Data(_) => self.violation("data where a reply was due".to_string()),
        }
    }

    fn exited(&mut self, reply: Reply) -> Result<Exit> {
        match reply {
            Reply::Exited(exit) => Ok(exit),
            Reply::Failed(failure) => Err(ClientError::Failed(failure)),
            other => self.unexpected("run", &other),
        }
    }

    fn unexpected<T>(&mut self, request: &str, reply: &Reply) -> Result<T> {
        let mut text = format!("{reply:?}");
        if let Some((end, _)) = text.char_indices().nth(200) {
            text.truncate(end);
        }
        self.violation(format!("{text} as answer to {request}"))
    }

    fn violation<T>(&mut self, what: String) -> Result<T> {
        self.ended = true;
        Err(ClientError::Protocol(what))
    }

    fn broke<T>(&mut self, error: io::Error) -> Result<T> {
        self.ended = true;
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Err(ClientError::Closed),
            _ => Err(ClientError::Stream(error)),
        }
    }
}

mod hello;
#[cfg(test)]
mod tests;
