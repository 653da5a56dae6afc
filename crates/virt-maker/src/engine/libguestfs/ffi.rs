//! libguestfs's C API, loaded at run time: the only room with `unsafe` of this engine.
//!
//! [`Library`] is the table of functions, [`Handle`] one `guestfs_h` with safe methods. A handle is used by one thread
//! at a time (it is `Send`, not `Sync`), its strings and lists are copied and freed here, and its errors become ours
//! with libguestfs's words. The signatures are those of `guestfs.h`, stable since 1.40; each symbol that is missing
//! makes loading fail with its name.

mod files;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

/// An opaque `guestfs_h`.
#[repr(C)]
pub(super) struct Raw {
    _private: [u8; 0],
}

/// `struct guestfs_version`.
#[repr(C)]
struct RawVersion {
    major: i64,
    minor: i64,
    release: i64,
    extra: *const c_char,
}

/// The head of `struct guestfs_statns`, up to when content and inode changed; the library allocates the whole.
#[repr(C)]
struct RawStat {
    dev: i64,
    ino: i64,
    mode: i64,
    nlink: i64,
    uid: i64,
    gid: i64,
    rdev: i64,
    size: i64,
    other: [i64; 4],
    changed: [i64; 4],
}

/// The head of `struct guestfs_statvfs`.
#[repr(C)]
struct RawSpace {
    bsize: i64,
    frsize: i64,
    blocks: i64,
    bfree: i64,
    bavail: i64,
}

/// What `lstatns` and `statns` say.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawAttributes {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Device, inode, size, and when content and inode changed: what differs once a file was written to or replaced.
    pub mark: Mark,
}

/// See [`RawAttributes::mark`].
pub(super) type Mark = [i64; 7];

type EventCallback =
    unsafe extern "C" fn(*mut Raw, *mut c_void, u64, c_int, c_int, *const c_char, usize, *const u64, usize);

/// Bits of `guestfs_set_event_callback`.
pub(super) mod events {
    /// A progress message.
    pub const PROGRESS: u64 = 0x0008;
    /// Console of the appliance, and what qemu says on its standard error.
    pub const APPLIANCE: u64 = 0x0010;
    /// Debug messages of the library.
    pub const LIBRARY: u64 = 0x0020;
    /// One line for each call.
    pub const TRACE: u64 = 0x0040;
    /// A warning.
    pub const WARNING: u64 = 0x0200;
    /// All of these.
    pub const ALL: u64 = PROGRESS | APPLIANCE | LIBRARY | TRACE | WARNING;
}

macro_rules! library {
    ($($name:ident = $symbol:literal : fn($($arg:ty),*) -> $ret:ty;)*) => {
        /// The functions of `libguestfs.so.0` that this engine calls.
        pub(super) struct Library {
            $($name: unsafe extern "C" fn($($arg),*) -> $ret,)*
            add_drive_opts: unsafe extern "C" fn(*mut Raw, *const c_char, ...) -> c_int,
            tar_out_opts: unsafe extern "C" fn(*mut Raw, *const c_char, *const c_char, ...) -> c_int,
            // Keeps the code mapped; the pointers above point into it.
            _library: libloading::Library,
        }

        impl Library {
            fn resolve(library: libloading::Library) -> Result<Library, libloading::Error> {
                // SAFETY: the types are those of guestfs.h for these symbols.
                unsafe {
                    Ok(Library {
                        $($name: *library.get(concat!("guestfs_", $symbol, "\0").as_bytes())?,)*
                        add_drive_opts: *library.get(b"guestfs_add_drive_opts\0")?,
                        tar_out_opts: *library.get(b"guestfs_tar_out_opts\0")?,
                        _library: library,
                    })
                }
            }
        }
    };
}

library! {
    create = "create": fn() -> *mut Raw;
    close = "close": fn(*mut Raw) -> ();
    last_error = "last_error": fn(*mut Raw) -> *const c_char;
    last_errno = "last_errno": fn(*mut Raw) -> c_int;
    set_error_handler = "set_error_handler": fn(*mut Raw, *const c_void, *mut c_void) -> ();
    set_event_callback = "set_event_callback": fn(*mut Raw, EventCallback, u64, c_int, *mut c_void) -> c_int;
    version = "version": fn(*mut Raw) -> *mut RawVersion;
    free_version = "free_version": fn(*mut RawVersion) -> ();
    set_backend = "set_backend": fn(*mut Raw, *const c_char) -> c_int;
    set_backend_settings = "set_backend_settings": fn(*mut Raw, *const *const c_char) -> c_int;
    set_cachedir = "set_cachedir": fn(*mut Raw, *const c_char) -> c_int;
    set_append = "set_append": fn(*mut Raw, *const c_char) -> c_int;
    set_tmpdir = "set_tmpdir": fn(*mut Raw, *const c_char) -> c_int;
    set_hv = "set_hv": fn(*mut Raw, *const c_char) -> c_int;
    set_memsize = "set_memsize": fn(*mut Raw, c_int) -> c_int;
    set_smp = "set_smp": fn(*mut Raw, c_int) -> c_int;
    set_network = "set_network": fn(*mut Raw, c_int) -> c_int;
    set_autosync = "set_autosync": fn(*mut Raw, c_int) -> c_int;
    set_trace = "set_trace": fn(*mut Raw, c_int) -> c_int;
    set_verbose = "set_verbose": fn(*mut Raw, c_int) -> c_int;
    config = "config": fn(*mut Raw, *const c_char, *const c_char) -> c_int;
    launch = "launch": fn(*mut Raw) -> c_int;
    shutdown = "shutdown": fn(*mut Raw) -> c_int;
    inspect_os = "inspect_os": fn(*mut Raw) -> *mut *mut c_char;
    inspect_get_mountpoints = "inspect_get_mountpoints": fn(*mut Raw, *const c_char) -> *mut *mut c_char;
    mount_options = "mount_options": fn(*mut Raw, *const c_char, *const c_char, *const c_char) -> c_int;
    umount_all = "umount_all": fn(*mut Raw) -> c_int;
    debug = "debug": fn(*mut Raw, *const c_char, *const *const c_char) -> *mut c_char;
    debug_upload = "debug_upload": fn(*mut Raw, *const c_char, *const c_char, c_int) -> c_int;
    upload = "upload": fn(*mut Raw, *const c_char, *const c_char) -> c_int;
    write = "write": fn(*mut Raw, *const c_char, *const c_char, usize) -> c_int;
    lgetxattr = "lgetxattr": fn(*mut Raw, *const c_char, *const c_char, *mut usize) -> *mut c_char;
    pread = "pread": fn(*mut Raw, *const c_char, c_int, i64, *mut usize) -> *mut c_char;
    download = "download": fn(*mut Raw, *const c_char, *const c_char) -> c_int;
    chmod = "chmod": fn(*mut Raw, c_int, *const c_char) -> c_int;
    lchown = "lchown": fn(*mut Raw, c_int, c_int, *const c_char) -> c_int;
    mkdir = "mkdir": fn(*mut Raw, *const c_char) -> c_int;
    mkdir_p = "mkdir_p": fn(*mut Raw, *const c_char) -> c_int;
    ln = "ln": fn(*mut Raw, *const c_char, *const c_char) -> c_int;
    ln_s = "ln_s": fn(*mut Raw, *const c_char, *const c_char) -> c_int;
    lstatns = "lstatns": fn(*mut Raw, *const c_char) -> *mut RawStat;
    statns = "statns": fn(*mut Raw, *const c_char) -> *mut RawStat;
    free_statns = "free_statns": fn(*mut RawStat) -> ();
    statvfs = "statvfs": fn(*mut Raw, *const c_char) -> *mut RawSpace;
    free_statvfs = "free_statvfs": fn(*mut RawSpace) -> ();
    readlink = "readlink": fn(*mut Raw, *const c_char) -> *mut c_char;
    realpath = "realpath": fn(*mut Raw, *const c_char) -> *mut c_char;
    ls = "ls": fn(*mut Raw, *const c_char) -> *mut *mut c_char;
    rename = "rename": fn(*mut Raw, *const c_char, *const c_char) -> c_int;
    rm = "rm": fn(*mut Raw, *const c_char) -> c_int;
    rm_rf = "rm_rf": fn(*mut Raw, *const c_char) -> c_int;
}

/// `GUESTFS_ADD_DRIVE_OPTS_FORMAT` and `_IFACE`, and the end of the list.
const DRIVE_FORMAT: c_int = 1;
const DRIVE_IFACE: c_int = 2;
const END: c_int = -1;
/// `GUESTFS_TAR_OUT_OPTS_NUMERICOWNER`, `_XATTRS`, `_SELINUX` and `_ACLS`.
const TAR_OPTIONS: [c_int; 4] = [1, 3, 4, 5];

impl Library {
    /// Loads `libguestfs.so.0` (or the file named) through the dynamic linker.
    pub(super) fn load(file: &str) -> Result<Arc<Library>> {
        // SAFETY: libguestfs's initialisers only set up its own tables.
        let loaded = unsafe { libloading::Library::new(file) }.and_then(Library::resolve);
        loaded.map(Arc::new).map_err(|source| {
            Error::new(ErrorKind::Unsupported, format!("the library {file} cannot be loaded"))
                .with_hint("install libguestfs (Debian: libguestfs0 or libguestfs0t64; Fedora: libguestfs)")
                .with_source(source)
        })
    }
}

/// Receives `(event bit, text, numbers)`; called on the thread that called libguestfs.
pub(super) type EventSink = Box<dyn Fn(u64, &[u8], &[u64]) + Send + Sync>;

/// One libguestfs handle. Dropping it ends its appliance.
pub(super) struct Handle {
    library: Arc<Library>,
    raw: *mut Raw,
    // Boxed twice, so that the callback gets a thin pointer; freed after the handle is closed.
    sink: *mut EventSink,
}

// SAFETY: a guestfs_h may be used from any thread, one at a time, which `&mut self` on every method ensures; the sink
// is Send and Sync.
unsafe impl Send for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: both pointers come from `Handle::new` and are not used after this; events end with close.
        unsafe {
            (self.library.close)(self.raw);
            drop(Box::from_raw(self.sink));
        }
    }
}

unsafe extern "C" fn on_event(
    _: *mut Raw,
    opaque: *mut c_void,
    event: u64,
    _: c_int,
    _: c_int,
    text: *const c_char,
    length: usize,
    array: *const u64,
    array_length: usize,
) {
    // A panic must not unwind through C.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        // SAFETY: `opaque` is the box that the handle owns until after close; `text` has `length` bytes for this call.
        // The array is as long as it says.
        let (sink, text, numbers) = unsafe {
            let text = if text.is_null() { &[][..] } else { std::slice::from_raw_parts(text.cast::<u8>(), length) };
            let numbers = if array.is_null() { &[][..] } else { std::slice::from_raw_parts(array, array_length) };
            (&*opaque.cast::<EventSink>(), text, numbers)
        };
        sink(event, text, numbers);
    }));
}

/// A list of C strings that ends with a null pointer.
struct CList {
    pointers: Vec<*const c_char>,
    _strings: Vec<CString>,
}

impl CList {
    fn new(items: &[&str]) -> Result<CList> {
        let strings = items.iter().map(|item| c(item)).collect::<Result<Vec<_>>>()?;
        let pointers = strings.iter().map(|item| item.as_ptr()).chain([ptr::null()]).collect();
        Ok(CList { pointers, _strings: strings })
    }
}

/// A C string; a NUL byte inside is an error of the caller's data.
fn c(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new(ErrorKind::Step, format!("{:?} contains a NUL byte", text)))
}

macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident($($arg:ident : $kind:ident),*);)*) => {
        $($(#[$doc])*
        pub(super) fn $name(&mut self, $($arg: plain!(@type $kind)),*) -> Result<(), CallError> {
            $(plain!(@bind $arg $kind);)*
            // SAFETY: the handle is open, strings live until the call returns.
            let status = unsafe { (self.library.$name)(self.raw(), $(plain!(@pass $arg $kind)),*) };
            self.status(stringify!($name), status)
        })*
    };
    (@type str) => { &str };
    (@type int) => { i32 };
    (@bind $arg:ident str) => { let $arg = c($arg).map_err(CallError::nul)?; };
    (@bind $arg:ident int) => {};
    (@pass $arg:ident str) => { $arg.as_ptr() };
    (@pass $arg:ident int) => { $arg };
}

/// What libguestfs said when a call failed.
#[derive(Debug, Clone)]
pub(super) struct CallError {
    /// The call.
    pub call: &'static str,
    /// Its words.
    pub message: String,
    /// The `errno` in the appliance, 0 where it has none.
    pub errno: i32,
}

impl CallError {
    fn nul(error: Error) -> CallError {
        CallError { call: "argument", message: error.to_string(), errno: libc::EINVAL }
    }
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "libguestfs ({}): {}", self.call, self.message)
    }
}

impl std::error::Error for CallError {}

impl Handle {
    /// A fresh handle; `sink` gets its events until it is dropped. Errors are never printed.
    pub(super) fn new(library: &Arc<Library>, sink: EventSink) -> Result<Handle> {
        // SAFETY: no arguments.
        let raw = unsafe { (library.create)() };
        if raw.is_null() {
            return Err(Error::new(ErrorKind::Host, "libguestfs could not make a handle"));
        }
        let handle = Handle { library: Arc::clone(library), raw, sink: Box::into_raw(Box::new(sink)) };
        // SAFETY: the handle is open; the sink outlives it.
        let set = unsafe { (library.set_event_callback)(handle.raw(), on_event, events::ALL, 0, handle.sink.cast()) };
        if set == -1 {
            return Err(Error::new(ErrorKind::Host, "libguestfs does not take an event callback"));
        }
        Ok(handle)
    }

    /// The raw handle for a call on this thread. libguestfs keeps its error handler for each thread by itself, and the
    /// one that it starts with prints.
    fn raw(&self) -> *mut Raw {
        // SAFETY: the handle is open; no handler means silence.
        unsafe { (self.library.set_error_handler)(self.raw, ptr::null(), ptr::null_mut()) };
        self.raw
    }

    fn error(&mut self, call: &'static str) -> CallError {
        // SAFETY: the handle is open; the text is valid until the next call and copied here.
        let (text, errno) = unsafe {
            let text = (self.library.last_error)(self.raw);
            let text = if text.is_null() { "no reason given".into() } else { CStr::from_ptr(text).to_string_lossy() };
            (text.into_owned(), (self.library.last_errno)(self.raw))
        };
        CallError { call, message: text, errno }
    }

    fn status(&mut self, call: &'static str, status: c_int) -> Result<(), CallError> {
        if status == -1 { Err(self.error(call)) } else { Ok(()) }
    }

    fn text(&mut self, call: &'static str, text: *mut c_char) -> Result<String, CallError> {
        if text.is_null() {
            return Err(self.error(call));
        }
        // SAFETY: a NUL-terminated string that malloc made for us.
        unsafe {
            let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
            libc::free(text.cast());
            Ok(copy)
        }
    }

    fn list(&mut self, call: &'static str, list: *mut *mut c_char) -> Result<Vec<String>, CallError> {
        if list.is_null() {
            return Err(self.error(call));
        }
        let mut items = Vec::new();
        // SAFETY: a null-terminated array of strings that malloc made for us; each is copied and freed once.
        unsafe {
            let mut next = list;
            while !(*next).is_null() {
                items.push(CStr::from_ptr(*next).to_string_lossy().into_owned());
                libc::free((*next).cast());
                next = next.add(1);
            }
            libc::free(list.cast());
        }
        Ok(items)
    }

    plain! {
        /// Which program runs the appliance: `direct` for qemu itself.
        set_backend(name: str);
        /// Where the appliance is built and kept.
        set_cachedir(path: str);
        /// Where temporary files go.
        set_tmpdir(path: str);
        /// Parameters for the appliance's kernel, behind libguestfs's own.
        set_append(parameters: str);
        /// The qemu program.
        set_hv(path: str);
        /// Memory of the appliance in MiB.
        set_memsize(mib: int);
        /// Number of its CPUs.
        set_smp(count: int);
        /// Whether libguestfs sets up a network by itself.
        set_network(on: int);
        /// Whether closing flushes.
        set_autosync(on: int);
        /// Whether every call sends an event.
        set_trace(on: int);
        /// Whether library and appliance say all they do.
        set_verbose(on: int);
        /// Adds an option with a value to qemu's command line.
        config(option: str, value: str);
        /// Starts the appliance and waits for it.
        launch();
        /// Flushes, unmounts, and ends the appliance.
        shutdown();
        /// Mounts a mountable in the guest's tree.
        mount_options(options: str, mountable: str, mount_point: str);
        /// Unmounts all.
        umount_all();
        /// Copies a file of the host to a path of the appliance itself.
        debug_upload(file: str, to: str, mode: int);
        /// Copies a file of the host into the guest.
        upload(file: str, to: str);
        /// Copies a file of the guest to the host.
        download(path: str, file: str);
        /// Sets permission bits.
        chmod(mode: int, path: str);
        /// Sets owner and group; -1 leaves one as it is.
        lchown(uid: int, gid: int, path: str);
        /// Makes one folder.
        mkdir(path: str);
        /// Makes a folder and its parents.
        mkdir_p(path: str);
        /// Makes a hard link.
        ln(target: str, path: str);
        /// Makes a symbolic link; fails if there is something.
        ln_s(target: str, path: str);
        /// Renames, replacing.
        rename(from: str, to: str);
        /// Removes one file.
        rm(path: str);
        /// Removes a tree.
        rm_rf(path: str);
    }

    /// Settings of the backend.
    pub(super) fn set_backend_settings(&mut self, settings: &[&str]) -> Result<(), CallError> {
        let list = CList::new(settings).map_err(CallError::nul)?;
        // SAFETY: a null-terminated list that lives until the call returns.
        let status = unsafe { (self.library.set_backend_settings)(self.raw(), list.pointers.as_ptr()) };
        self.status("set_backend_settings", status)
    }

    /// Adds a raw disk with an interface (`-drive if=`).
    pub(super) fn add_raw_drive(&mut self, file: &str, interface: &str) -> Result<(), CallError> {
        let (file, interface) = (c(file).map_err(CallError::nul)?, c(interface).map_err(CallError::nul)?);
        // SAFETY: pairs of an option's number and its string, then the end mark.
        let status = unsafe {
            (self.library.add_drive_opts)(
                self.raw(),
                file.as_ptr(),
                DRIVE_FORMAT,
                c"raw".as_ptr(),
                DRIVE_IFACE,
                interface.as_ptr(),
                END,
            )
        };
        self.status("add_drive", status)
    }

    /// Packs a folder of the guest, with numeric owners and all extended attributes, into a tar on the host.
    pub(super) fn tar_out(&mut self, folder: &str, file: &str) -> Result<(), CallError> {
        let (folder, file) = (c(folder).map_err(CallError::nul)?, c(file).map_err(CallError::nul)?);
        let [owner, xattrs, selinux, acls] = TAR_OPTIONS;
        // SAFETY: pairs of an option's number and its value, then the end mark.
        let status = unsafe {
            (self.library.tar_out_opts)(
                self.raw(),
                folder.as_ptr(),
                file.as_ptr(),
                owner,
                1 as c_int,
                xattrs,
                1 as c_int,
                selinux,
                1 as c_int,
                acls,
                1 as c_int,
                END,
            )
        };
        self.status("tar_out", status)
    }

    /// `major.minor.release` with what the distribution adds.
    pub(super) fn version(&mut self) -> Result<String, CallError> {
        // SAFETY: the struct is ours until it is freed.
        unsafe {
            let version = (self.library.version)(self.raw());
            if version.is_null() {
                return Err(self.error("version"));
            }
            let RawVersion { major, minor, release, extra } = &*version;
            let extra = if extra.is_null() { "".into() } else { CStr::from_ptr(*extra).to_string_lossy() };
            let text = format!("{major}.{minor}.{release}{extra}");
            (self.library.free_version)(version);
            Ok(text)
        }
    }

    /// Roots of operating systems, by libguestfs's inspection.
    pub(super) fn inspect_os(&mut self) -> Result<Vec<String>, CallError> {
        // SAFETY: the handle is open.
        let list = unsafe { (self.library.inspect_os)(self.raw()) };
        self.list("inspect_os", list)
    }

    /// Pairs of mount point and mountable of a root that was found.
    pub(super) fn inspect_get_mountpoints(&mut self, root: &str) -> Result<Vec<(String, String)>, CallError> {
        let root = c(root).map_err(CallError::nul)?;
        // SAFETY: the handle is open, the string lives until the call returns.
        let list = unsafe { (self.library.inspect_get_mountpoints)(self.raw(), root.as_ptr()) };
        let flat = self.list("inspect_get_mountpoints", list)?;
        Ok(flat.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
    }

    /// Runs a shell command in the appliance itself, with `/sysroot` as the guest's root. A status other than 0 is an
    /// error with what it wrote to its standard error. At most 4 MiB come back.
    pub(super) fn appliance_sh(&mut self, command: &str) -> Result<String, CallError> {
        let list = CList::new(&[command]).map_err(CallError::nul)?;
        // SAFETY: strings and list live until the call returns.
        let text = unsafe { (self.library.debug)(self.raw(), c"sh".as_ptr(), list.pointers.as_ptr()) };
        self.text("debug sh", text)
    }
}
