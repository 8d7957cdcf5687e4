//! Benches of the packet path, one file a stage, through the engine's public interface. `cargo bench -p culvert-benches`
//! runs them all; a part of a name behind `--` chooses (`-- esp/seal`), and `-- --test` runs each once without measuring.
//!
//! Bytes a second, where shown, are those of the inner packet.

mod batch;
mod esp;
mod gre;
mod packets;
mod parse;
mod replay;
mod route;

criterion::criterion_group!(stages, parse::all, route::all, gre::all, esp::all, replay::all, batch::all);
criterion::criterion_main!(stages);
