//! Pages that stand alone: one file with its style, its script and its data, which asks nothing of any network.
//!
//! What is shown comes from templates and guests. It is carried as JSON that cannot end its element, the scripts put it
//! into the page as text only, and the page's policy lets nothing else run or load, but for pictures that are in the page itself.

mod pictures;

use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{Access, Mode, OFlags};
use rustix::io::Errno;
use serde_json::Value;
use virt_maker::host::temporary::{self, Durability};

pub use pictures::Pictures;

/// What makes a page.
pub struct Page<'a> {
    pub title: &'a str,
    /// Style of its own, after the common one.
    pub style: &'a str,
    /// Script of its own, after the common one.
    pub script: &'a str,
    /// Markup of the body; no data.
    pub body: &'a str,
    /// What the script finds as `data`.
    pub data: &'a Value,
}

impl Page<'_> {
    /// The whole file.
    pub fn text(&self) -> String {
        let Page { title, style, script, body, data } = self;
        let (common_style, common_script) = (include_str!("page.css"), include_str!("page.js"));
        // JSON has `<` only within strings, where it may be written this way.
        let data = data.to_string().replace('<', "\\u003c");
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>\n{common_style}{style}</style>\n\
             </head>\n<body>\n{body}\n<script type=\"application/json\" id=\"data\">{data}</script>\n\
             <script>\n{common_script}{script}</script>\n</body>\n</html>\n"
        )
    }

    /// An error where no page can be written to a file: asked before the work whose end it shows.
    pub fn check(file: &Path) -> io::Result<()> {
        file.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        if file.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // A file without a name, which is gone when it is closed; where a file system knows none, the folder alone is looked at.
        match rustix::fs::open(folder, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR) {
            Ok(_) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => Ok(rustix::fs::access(folder, Access::WRITE_OK)?),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes it, whole or not at all.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        file.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let text = self.text();
        // Once written, nothing but its reader looks at it, who sees where a power cut has torn it.
        temporary::replace_with(file, 0o666, Durability::None, |file| file.write_all(text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn data_cannot_leave_its_element() {
        let data = json!({ "summary": "</script><script>alert(1)</script><!--" });
        let page = Page { title: "t", style: "", script: "", body: "", data: &data };
        let text = page.text();
        assert_eq!(text.matches("</script>").count(), 2, "the data's and the page's own");
        let (_, rest) = text.split_once("id=\"data\">").unwrap();
        let (carried, _) = rest.split_once("</script>").unwrap();
        assert_eq!(serde_json::from_str::<Value>(carried).unwrap(), data);
    }
}
