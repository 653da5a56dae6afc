//! Ways by which a template names files of the host: for tests of who may read what.

use std::path::Path;

/// Each way from a template to a file of the host: what it is called, and the text of a template in which PATH stands for the
/// file, FOLDER for its folder and IMPORT for a base. Beside it lie files called `keys` and `tree`.
pub const HOST_FILE_WAYS: &[(&str, &str)] = &[
    ("copy", "spec: {import: IMPORT, steps: [{copy: {dest: /a, source: 'PATH'}}]}"),
    ("copy, older form", "spec: {import: IMPORT, steps: [{copy: {dest: /a, content: 'PATH'}}]}"),
    ("copy of a folder", "spec: {import: IMPORT, steps: [{copy: {dest: /a, source: 'FOLDER'}}]}"),
    ("a seed of boot", "spec: {import: IMPORT, steps: [{boot: {seed: {user_data: {source: 'PATH'}}}}]}"),
    ("file", "spec: {import: IMPORT, steps: [{file: {path: /a, template: 'PATH'}}]}"),
    ("unpack", "spec: {import: IMPORT, steps: [{unpack: {dest: /a, source: 'PATH'}}]}"),
    ("rootpass", "spec: {import: IMPORT, steps: [{rootpass: 'file:PATH'}]}"),
    ("secrets", "secrets: {key: {file: 'PATH'}}\nspec: {import: IMPORT, steps: [{run: x, secrets: key}]}"),
    ("repo", "spec: {import: IMPORT, steps: [{repo: {name: own, url: 'http://a.example/', suite: b, key: 'PATH'}}]}"),
    (
        "download_to",
        "spec: {import: IMPORT, steps: [{download_to: {dest: /a, url: 'file://PATH', checksum: 'sha256:0000000000000000000000000000000000000000000000000000000000000000'}}]}",
    ),
    ("inject_virtio_win", "spec: {import: IMPORT, steps: [{inject_virtio_win: 'PATH'}]}"),
    ("ansible", "spec: {import: IMPORT, steps: [{ansible: {source: 'FOLDER', playbook: secret}}]}"),
    ("a step of the library", "spec: {import: IMPORT, steps: [{ca_cert: {name: a, text: 'PATH'}}]}"),
    ("disk", "spec: {import: {disk: {path: 'PATH'}}}"),
    ("download", "spec: {import: {download: {url: 'file://PATH'}}}"),
    ("download of a path", "spec: {import: {download: {url: 'PATH'}}}"),
    ("checksums", "spec: {import: {download: {url: 'http://a.example/b', checksums: {url: 'PATH', gpg: keys}}}}"),
    (
        "checksums by URL",
        "spec: {import: {download: {url: 'http://a.example/b', checksums: {url: 'file://PATH', gpg: keys}}}}",
    ),
    (
        "keys of checksums",
        "spec: {import: {download: {url: 'http://a.example/b', checksums: {url: 'http://a.example/c', gpg: 'PATH'}}}}",
    ),
    ("isoboot", "spec: {import: {isoboot: {url: 'PATH'}}}"),
    ("isoboot, older form", "spec: {import: {isoboot: {isos: ['file://PATH']}}}"),
    ("files of isoboot", "spec: {import: {isoboot: {url: 'http://a.example/b', files: {a: {source: 'PATH'}}}}}"),
    ("what isoboot serves", "spec: {import: {isoboot: {url: 'http://a.example/b', serve: {a: {source: 'PATH'}}}}}"),
    ("a floppy of isoboot", "spec: {import: {isoboot: {url: 'http://a.example/b', floppies: [{a: 'PATH'}]}}}"),
    ("rootfs", "spec: {import: {rootfs: {source: 'PATH', size: 1G}}}"),
    (
        "a kernel of rootfs",
        "spec: {import: {rootfs: {source: tree, size: 1G, kernel: {image: 'PATH', initrd: 'PATH'}}}}",
    ),
    (
        "a mirror for a kernel",
        "spec: {import: {rootfs: {source: tree, size: 1G, kernel: {package: linux, mirror: 'file://PATH'}}}}",
    ),
    ("a mirror", "spec: {import: {bootstrap: {suite: bookworm, size: 2G, mirror: 'file://PATH'}}}"),
    (
        "a line of a mirror",
        "spec: {import: {bootstrap: {suite: bookworm, size: 2G, mirror: 'deb [signed-by=PATH] http://a.example/debian bookworm main'}}}",
    ),
    (
        "a mirror that is copied",
        "spec: {import: {bootstrap: {suite: bookworm, size: 2G, mirror: 'deb copy:PATH bookworm main'}}}",
    ),
    ("keys of RPM packages", "spec: {import: {bootstrap: {suite: fedora41, size: 2G, gpg: 'PATH'}}}"),
    ("layer", "spec: {import: {layer: {template: 'PATH'}}}"),
    ("from", "from: 'PATH'\nspec: {import: IMPORT}"),
    ("to", "to: 'PATH'\nspec: {import: IMPORT}"),
    ("use", "use: ['PATH']\nspec: {import: IMPORT}"),
    ("before", "before: ['PATH']\nspec: {import: IMPORT}"),
    ("after", "after: ['PATH']\nspec: {import: IMPORT}"),
    ("include", "spec: {import: IMPORT, steps: [{include: 'PATH'}]}"),
    ("file_contents", "spec: {import: IMPORT, steps: [{run: \"{{ file_contents('PATH') }}\"}]}"),
    (
        "a path of several parts",
        "params: {folder: FOLDER}\nspec: {import: IMPORT, steps: [{copy: {dest: /a, source: '{{ folder }}/secret'}}]}",
    ),
];

/// The text of one of these ways, for a base and the absolute path of a file.
pub fn host_file_way(text: &str, base: &Path, path: &str) -> String {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let import = format!("{{download: {{url: 'file://{}'}}}}", base.display());
    text.replace("IMPORT", &import).replace("PATH", path).replace("FOLDER", folder)
}

/// Whether the first bytes of the file have to be looked at: a base may lie anywhere, if they say that it is one.
pub fn looks_for_an_image(text: &str) -> bool {
    ["disk: {path", "download: {url: 'PATH", "download: {url: 'file:", "isoboot: {url: 'PATH", "isoboot: {isos"]
        .iter()
        .any(|way| text.contains(way))
}
