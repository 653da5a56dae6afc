//! A web server that speaks TLS, with a certificate of an authority of the test's own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const SERVE: &str = "
import http.server, ssl, sys
folder, port = sys.argv[1], 0
handler = lambda *all: http.server.SimpleHTTPRequestHandler(*all, directory=folder)
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(folder + '/' + sys.argv[2], folder + '/' + sys.argv[3])
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(server.server_address[1], flush=True)
server.serve_forever()
";

/// The server; it ends when this is dropped.
pub struct TlsServer {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl TlsServer {
    /// Serves the files of its folder on the loopback, as `localhost`.
    pub fn start() -> TlsServer {
        TlsServer::showing("server.crt", "server.key")
    }

    /// The same with the authority's own certificate, as one that was made by `openssl req -x509` alone.
    pub fn start_as_authority() -> TlsServer {
        TlsServer::showing("ca.pem", "ca.key")
    }

    fn showing(certificate: &str, key: &str) -> TlsServer {
        let folder = tempfile::tempdir().unwrap();
        let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj '/CN=Tests' \
             -keyout ca.key -out ca.pem \
             -addext basicConstraints=critical,CA:TRUE -addext subjectAltName=DNS:localhost && \
             openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost \
             -keyout server.key -out server.csr && \
             printf 'subjectAltName=DNS:localhost\\nbasicConstraints=CA:FALSE\\n' > server.ext && \
             openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 \
             -extfile server.ext -out server.crt && mkdir certs && cp ca.pem certs/one.pem && echo other > certs/README";
        super::run(Command::new("sh").args(["-c", script]).current_dir(folder.path()));
        let mut python = Command::new("python3");
        python.args(["-c", SERVE]).arg(folder.path()).args([certificate, key]);
        let mut child = python.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        TlsServer { child, port: line.trim().parse().unwrap(), folder }
    }

    /// The folder that is served.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The certificate of the authority.
    pub fn authority(&self) -> PathBuf {
        self.folder().join("ca.pem")
    }

    /// A folder with that certificate, and with something else.
    pub fn authorities(&self) -> PathBuf {
        self.folder().join("certs")
    }

    /// Where a file of the folder is found.
    pub fn url(&self, name: &str) -> String {
        format!("https://localhost:{}/{name}", self.port)
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
