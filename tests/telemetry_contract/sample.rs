//! What was sent, as files that another server can be fed with.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use buttress_tests::langfuse_server::{PROJECT_ID, js::Js, mapping, otlp};

use super::seen::Seen;

/// Returns the folder of the samples, empty.
pub(crate) fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("otlp-samples");
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
        _ => {}
    }
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Writes what was sent as one request of OTLP/JSON.
///
/// Read back from the file it makes the rows that were made of what was sent, which was protobuf.
pub(crate) fn write(path: &Path, seen: &Seen) {
    fs::write(path, format!("{:#}\n", seen.said)).unwrap();
    let mut sender = mapping::Sender::new(PROJECT_ID, &seen.public_key);
    [sender.sdk_name, sender.sdk_version] = seen.sdk.clone();
    let said = otlp::from_json(&fs::read(path).unwrap()).unwrap();
    otlp::check(&said).unwrap();
    let rows = mapping::events(&said, &sender).unwrap();
    assert_eq!(rows.len(), seen.observations.len(), "{}", path.display());
    for (row, one) in rows.into_iter().zip(&seen.observations) {
        let [mut row, mut expected] = [Js::Obj(row).to_serde(), one.row().clone()];
        for row in [&mut row, &mut expected] {
            // Ids are shorter as text.
            row.as_object_mut().unwrap().remove("eventBytes");
        }
        assert_eq!(row, expected, "{}", path.display());
    }
}
