//! What holds for the sources of the pages, read as text: `templates/`, `static/` and `src/http/pages/`.

mod imports;
mod lexer;
mod texts;
mod visible;

use std::fs;
use std::path::Path;

/// The files of a folder of the project, with their names, in order.
fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let read = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        name.ends_with(ending).then(|| (name, fs::read_to_string(entry.path()).unwrap()))
    };
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().filter_map(|entry| read(entry.unwrap())).collect();
    files.sort();
    assert!(!files.is_empty(), "{}", folder.display());
    files
}
