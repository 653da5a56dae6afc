//! What must hold of a house.

use std::collections::{BTreeMap, BTreeSet};

use super::house::{House, Import, Place};

/// Most lines of a file.
const LINES: usize = 600;
/// Where the rooms of the library are, as the page writes it.
const ROOMS: &str = "crates/virt-maker/src/";

/// On which floor each room of the library is.
pub struct Floors(BTreeMap<String, u32>);

impl Floors {
    /// Those of the table on the page of the architecture.
    pub fn read(page: &str) -> Result<Floors, String> {
        let mut lines = page.lines().skip_while(|line| *line != "| floor | rooms |").skip(2).peekable();
        if lines.peek().is_none() {
            return Err("there is no table `| floor | rooms |` on the page".into());
        }
        let mut floors = BTreeMap::new();
        for line in lines.take_while(|line| line.starts_with('|')) {
            let mut cells = line.trim_matches('|').splitn(2, '|').map(str::trim);
            let (floor, rooms) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
            let floor = floor.parse().map_err(|_| format!("`{floor}` is no number of a floor"))?;
            for room in rooms.split('`').skip(1).step_by(2).filter_map(|path| path.strip_prefix(ROOMS)) {
                let room = room.trim_end_matches('/').trim_end_matches(".rs").to_owned();
                if floors.insert(room.clone(), floor).is_some() {
                    return Err(format!("the room `{room}` is on the page twice"));
                }
            }
        }
        Ok(Floors(floors))
    }

    /// What is wrong with the library, a line each.
    pub fn check(&self, library: &House) -> Vec<String> {
        let rooms: BTreeSet<&String> = library.files.keys().filter_map(|place| place.first()).collect();
        let mut faults = Vec::new();
        for room in self.0.keys().filter(|room| !rooms.contains(room)) {
            faults.push(format!(
                "docs/architecture.md: names the room `{room}`, which is not there; what to do: take it out"
            ));
        }
        for room in rooms.iter().filter(|room| !self.0.contains_key(**room)) {
            faults.push(format!(
                "docs/architecture.md: the room `{room}` is on no floor; what to do: name `{ROOMS}{room}` in the table, on \
                 the lowest floor above all that it uses"
            ));
        }
        for (place, file) in &library.files {
            // The crate's own door names all rooms.
            let Some(room) = place.first() else { continue };
            for Import { line, path, from } in &file.imports {
                let Some(other) = from.first().filter(|other| *other != room) else { continue };
                if let (Some(own), Some(above)) = (self.0.get(room), self.0.get(other))
                    && above >= own
                {
                    faults.push(format!(
                        "{}:{line}: `{path}` is in the room `{other}` on floor {above}, and `{room}` on floor {own} uses \
                         only what is below it; what to do: move what both need into a room below both (docs/architecture.md \
                         has the floors), or let whoever calls `{room}` hand it in",
                        file.path
                    ));
                }
            }
        }
        faults
    }
}

/// The circles between files of one crate, each with what ties it.
pub fn circles(house: &House) -> Vec<String> {
    let empty = BTreeSet::new();
    let taken: BTreeMap<&Place, BTreeSet<&Place>> = house
        .files
        .iter()
        .map(|(place, file)| (place, file.imports.iter().map(|import| &import.from).collect()))
        .collect();
    let reached = |from| {
        let mut reached: BTreeSet<&Place> = BTreeSet::new();
        let mut next: Vec<&Place> = vec![from];
        while let Some(place) = next.pop() {
            next.extend(taken.get(place).unwrap_or(&empty).iter().filter(|place| reached.insert(place)));
        }
        reached
    };
    let reached: BTreeMap<&Place, BTreeSet<&Place>> = house.files.keys().map(|place| (place, reached(place))).collect();
    let mut told: BTreeSet<&Place> = BTreeSet::new();
    let mut faults = Vec::new();
    for place in house.files.keys().filter(|place| reached[place].contains(place)) {
        if told.contains(place) {
            continue;
        }
        let back = |other: &&&Place| reached.get(**other).is_some_and(|reached| reached.contains(place));
        let circle: BTreeSet<&Place> = reached[place].iter().filter(back).copied().collect();
        let mut fault = format!(
            "{} files import one another in a circle; what to do: move what they share into a file that imports none of them",
            circle.len()
        );
        for file in circle.iter().map(|place| &house.files[*place]) {
            for Import { line, path, from } in file.imports.iter().filter(|import| circle.contains(&import.from)) {
                fault.push_str(&format!("\n  {}:{line}: `{path}`, of {}", file.path, house.files[from].path));
            }
        }
        faults.push(fault);
        told.extend(circle);
    }
    faults
}

/// Files that are too long.
pub fn too_long(sources: &[(String, String)]) -> Vec<String> {
    let long = sources.iter().map(|(path, text)| (path, text.lines().count())).filter(|(_, lines)| *lines > LINES);
    long.map(|(path, lines)| {
        format!(
            "{path}: {lines} lines, and {LINES} are the most; what to do: give one of its subjects a file of its own"
        )
    })
    .collect()
}
