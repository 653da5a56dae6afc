//! Mutations: what changes an input into one that nobody would write.

/// Pieces that mean something to the loader.
const WORDS: &[&str] = &[
    "{{ ",
    " }}",
    "{% for x in range(9) %}",
    "{% endfor %}",
    "{% if ",
    "{% set x = ",
    "{# ",
    " #}",
    "- ",
    ": ",
    "\n",
    "  ",
    "[",
    "]",
    "{",
    "}",
    "'",
    "\"",
    "|\n",
    ">-\n",
    "&a ",
    "*a ",
    "<<: ",
    "!!str ",
    "? ",
    "---\n",
    "# ",
    "~",
    "null",
    "true",
    "0x1f",
    "-1",
    "1e309",
    "99999999999999999999",
    "params:",
    "spec:",
    "import:",
    "steps:",
    "export:",
    "from: base.yml",
    "to: base.yml",
    "before: [base.yml]",
    "matrix:",
    "include: steps.yml",
    "with:",
    "for: {x: [1, 2]}",
    "when:",
    "define:",
    "use: lib.yml",
    "mine:",
    "secrets:",
    "defaults:",
    "cache: {ttl: 7d}",
    "retries: 3",
    "run:",
    "copy:",
    "install:",
    "hostname:",
    "download:",
    "exec:./x:",
    "file_contents('data.yml')",
    "from_yaml('[')",
    "random_word(9, 3)",
    "range(100000)",
    "int('9')",
    "enumerate([1])",
    "at_least(1, 2)",
    "now()",
    " | join(',')",
    " | default(1)",
    ".split(',')",
    " ~ ",
    " * 99999",
    " if x else ",
    "list",
    "map.k",
    "text",
    "self",
    "loop.index",
    "\u{0}",
    "\u{feff}",
    "\u{202e}",
    "ä",
    "\u{10ffff}",
    "\t",
    "\r\n",
];

/// Makes inputs.
pub struct Mutator(u64);

impl Mutator {
    pub fn new(seed: u64) -> Mutator {
        Mutator(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `most`.
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most.max(1) as u64) as usize
    }

    /// A mutation of something in the corpus.
    pub fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..1 + self.below(6) {
            self.step(&mut input, corpus);
        }
        input.truncate(64 << 10);
        input
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let from = self.below(length + 1);
        let to = (from + self.below(40)).min(length);
        from..to
    }

    fn step(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        match self.below(10) {
            0..=3 => {
                let word = WORDS[self.below(WORDS.len())];
                let range = if self.below(2) == 0 { at..at } else { self.range(input.len()) };
                input.splice(range, word.bytes());
            }
            4 => {
                let range = self.range(input.len());
                input.drain(range);
            }
            5 => {
                let range = self.range(input.len());
                let piece = input[range].to_vec();
                let most = if self.below(20) == 0 { 3000 } else { 4 };
                let times = 1 + self.below(most);
                input.splice(at..at, piece.repeat(times));
            }
            6 => {
                let other = &corpus[self.below(corpus.len())];
                let range = self.range(other.len());
                input.splice(at..at, other[range].iter().copied());
            }
            7 => {
                let byte = self.below(256) as u8;
                if let Some(place) = input.get_mut(at) {
                    *place = byte;
                }
            }
            8 => {
                // A line elsewhere, perhaps deeper.
                let lines: Vec<Vec<u8>> = input.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
                let mut line = lines[self.below(lines.len())].clone();
                let indent = self.below(8);
                line.splice(0..0, std::iter::repeat_n(b' ', indent));
                line.push(b'\n');
                input.splice(at..at, line);
            }
            _ => {
                let (open, close) =
                    [("[", "]"), ("{a: ", "}"), ("{{ (", ") }}"), ("(", ")"), ("- ", ""), ("-", "")][self.below(6)];
                let most = if self.below(10) == 0 { 5000 } else { 30 };
                let depth = 1 + self.below(most);
                let nest = open.repeat(depth) + "x" + &close.repeat(depth);
                input.splice(at..at, nest.bytes());
            }
        }
    }
}
