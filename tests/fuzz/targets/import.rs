//! Files of any content in place of rc.conf, one after the other where a NUL is between them: a configuration that `culvert check`
//! would accept, or an error that says where; no panic.
#![no_main]

use culvert::config::Config;
use culvert::import::import;
use culvert::plan;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path =
        |name: usize| std::env::temp_dir().join(format!("culvert-fuzz-import-{}-{name}", std::process::id()));
    let files = bytes.split(|byte| *byte == 0).take(4).enumerate().map(|(number, bytes)| {
        std::fs::write(path(number), bytes).unwrap();
        path(number)
    });
    let files: Vec<_> = files.collect();
    let imported = match import(&files) {
        Ok(imported) => imported,
        Err(failure) => {
            assert_eq!(failure.code(), 2);
            assert!(failure.lines().iter().all(|line| line.contains("culvert-fuzz-import-")));
            return;
        }
    };
    let made = path(4);
    std::fs::write(&made, &imported.configuration).unwrap();
    let (config, _) =
        Config::load(&made).unwrap_or_else(|errors| panic!("{errors}\n{}", imported.configuration));
    let tables =
        plan::preview(&config).unwrap_or_else(|problems| panic!("{problems:?}\n{}", imported.configuration));
    assert!(plan::nested(&config, &tables).is_empty(), "{}", imported.configuration);
});
