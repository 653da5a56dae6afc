//! The pages, in a real browser: `tree --html` and `build --report`.

use std::path::Path;
use std::process::Command;

use crate::common::{Bench, run};
use testkit::{TinyOptions, tiny_guest};

/// What a browser makes of a page, after its script has run; and what it complained of.
pub fn opened(page: &Path) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
            "--v=0",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--window-size=1400,900", "--dump-dom"])
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("chromium is installed by scripts/setup");
    let complaints = String::from_utf8_lossy(&output.stderr).lines().filter(|line| line.contains("CONSOLE")).collect();
    (String::from_utf8_lossy(&output.stdout).into_owned(), complaints)
}

/// The text of a page: what stands between its elements, outside of the data and scripts.
pub fn text(dom: &str) -> String {
    let (shown, _) = dom.split_once("<script type=\"application/json\"").unwrap();
    let (_, shown) = shown.split_once("<body>").unwrap();
    let pieces = shown.split('<').map(|piece| piece.split_once('>').map_or(piece, |(_, text)| text));
    pieces.filter(|piece| !piece.trim().is_empty()).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_pages_show_the_tree_and_the_build_in_a_browser() {
    let bench = Bench::new(tiny_guest(&TinyOptions::default()));
    let hostile = run("echo '</script><script>document.title=\"taken\"</script><img src=x onerror=alert(1)>' > /x");
    let common = [run("echo common > /common"), hostile];
    let with = |own: &[String]| common.iter().chain(own).cloned().collect::<Vec<_>>();
    let export = format!("raw: {{path: '{}'}}", bench.path("web.raw").display());
    let web = bench.template("web.yml", &with(&[run("echo from web; echo web > /role")]), &export);
    let database = bench.template("db.yml", &with(&[run("echo db > /role"), run("echo it is broken; exit 3")]), "");
    let (web, database) = (web.to_str().unwrap(), database.to_str().unwrap());
    let report = bench.path("report.html");
    let report_name = report.to_str().unwrap();
    bench.run(&["build", web, database, "--engine", "chroot", "--jobs", "2", "--report", report_name]).exits(4);

    let (dom, complaints) = opened(&report);
    assert_eq!(complaints, "");
    assert!(dom.contains("data-rows=\"6\""), "six layers: {dom}");
    let shown = text(&dom);
    let size = std::fs::metadata(bench.path("web.raw")).unwrap().len();
    let size = format!("{:.1} MiB", size as f64 / f64::from(1 << 20));
    let digest = testkit::run(Command::new("sha256sum").arg(bench.path("web.raw"))).stdout;
    let digest = String::from_utf8(digest).unwrap()[..64].to_owned();
    for expected in [
        "Images",
        "web.yml",
        "built",
        "db.yml",
        "failed",
        "worker 1",
        "sealing",
        "it is broken",
        "Artifacts",
        "written",
        &digest,
        &size,
    ] {
        assert!(shown.lines().any(|line| line.contains(expected)), "{expected}: {shown}");
    }
    assert!(dom.contains("class=\"label\""), "bars that are wide enough say what they are: {dom}");
    assert!(dom.contains("<title>virt-maker build</title>") && !dom.contains("<img"), "{dom}");

    let tree = bench.path("tree.html");
    bench.run(&["tree", "--html", tree.to_str().unwrap()]).exits(0);
    let (dom, complaints) = opened(&tree);
    assert_eq!(complaints, "");
    assert!(dom.contains("data-rows=\"6\""), "five layers and a failure: {dom}");
    assert_eq!(dom.matches("<circle").count(), 6);
    assert_eq!(dom.matches("class=\"failed\"").count(), 1, "the failed step is a red dot");
    let shown = text(&dom);
    for expected in ["5 layers", "1 failed", "web.raw", "echo common &gt; /common", "step", "took", "made"] {
        assert!(shown.lines().any(|line| line.contains(expected)), "{expected}: {shown}");
    }
    assert!(dom.contains("<title>virt-maker tree</title>") && !dom.contains("<img"), "{dom}");

    // Once the step is mended, its failure is no part of the picture any more.
    let mended = bench.template("db.yml", &with(&[run("echo db > /role"), run("true")]), "");
    bench.run(&["build", mended.to_str().unwrap(), "--engine", "chroot"]).exits(0);
    bench.run(&["build", mended.to_str().unwrap(), "--engine", "chroot"]).exits(0);
    let again = bench.run(&["tree", "--html", tree.to_str().unwrap(), "--diffs", "--engine", "chroot"]).exits(0);
    assert_eq!(again.stderr, "");
    let (dom, complaints) = opened(&tree);
    assert_eq!(complaints, "");
    // The mended one found three layers, and then all of its four: each of them counts for the three. Which of two branches
    // was built first, and so comes first, is another thing each time.
    let mut hits: Vec<_> =
        dom.split("class=\"hits\"").skip(1).map(|rest| rest.split(['>', '<']).nth(1).unwrap()).collect();
    hits.sort();
    assert_eq!(hits, ["", "", "1×", "2×", "2×", "2×", "2×"], "{dom}");
    assert!(dom.contains("A /common  (7 B, -rw-r--r--, 0:0)"), "a click on the layer shows what it changed: {dom}");

    let nowhere = bench.run(&["tree", "--html", "/nonexistent/tree.html"]).exits(5);
    assert!(nowhere.stderr.contains("/nonexistent/tree.html"), "{}", nowhere.stderr);
}
