#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| protocol_spec::fuzzing::message(octets));
