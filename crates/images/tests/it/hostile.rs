//! Bytes that anybody may have made: refused or read, never a panic.

use cryopod_images::pages::Pagemap;
use cryopod_images::{Error, Image, Reader, Writer, msg};
use proptest::prelude::*;

/// Walks an image as a restore would, every record of every type of interest.
fn walk(data: &[u8]) {
    fn all<M: prost::Message + Default>(kind: Image, data: &[u8]) {
        if let Ok(mut reader) = Reader::new(kind, "x.img", data) {
            while let Ok(Some(_)) = reader.record::<M>() {}
            let at = reader.offset();
            assert!(at <= data.len());
            let _ = reader.payload(u64::MAX);
            let _ = reader.payload(3);
            assert!(reader.rest().len() <= data.len());
        }
    }
    all::<msg::InventoryEntry>(Image::Inventory, data);
    all::<msg::CoreEntry>(Image::Core, data);
    all::<msg::MmEntry>(Image::Mm, data);
    all::<msg::FileEntry>(Image::Files, data);
    all::<msg::CgroupEntry>(Image::Cgroup, data);
    all::<msg::PipeDataEntry>(Image::PipesData, data);
    let _ = Pagemap::read("x.img", data);
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(data in proptest::collection::vec(any::<u8>(), 0..512)) {
        walk(&data);
    }

    #[test]
    fn no_records_make_the_reader_panic(
        kind in proptest::sample::select(&[Image::Inventory, Image::Core, Image::Mm, Image::Files,
            Image::Cgroup, Image::PipesData, Image::Pagemap][..]),
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..8),
    ) {
        let mut image = Writer::new(kind).finish();
        for body in bodies {
            image.extend((body.len() as u32).to_le_bytes());
            image.extend(body);
        }
        walk(&image);
    }

    #[test]
    fn no_pagemap_makes_offsets_wrap(
        runs in proptest::collection::vec((any::<u64>(), any::<u32>(), any::<Option<bool>>(),
            proptest::option::of(0_u32..9), any::<Option<u64>>()), 0..8),
    ) {
        let mut writer = Writer::new(Image::Pagemap);
        writer.record(&msg::PagemapHead { pages_id: 1 }).unwrap();
        for (vaddr, compat_nr_pages, in_parent, flags, nr_pages) in runs {
            let entry = msg::PagemapEntry {
                vaddr: vaddr & !0xfff, compat_nr_pages, in_parent, flags, nr_pages,
            };
            writer.record(&entry).unwrap();
        }
        if let Ok(map) = Pagemap::read("pagemap-1.img", &writer.finish()) {
            for run in map.runs() {
                assert!(run.end() > run.vaddr);
                assert!(map.page_offset(run.vaddr) == run.offset);
            }
        }
    }

    #[test]
    fn a_real_image_with_a_flipped_byte_never_panics(at in 0_usize..2467, bit in 0_u8..8) {
        let mut data = include_bytes!("../data/tree/mm-214.img").to_vec();
        data[at] ^= 1 << bit;
        walk(&data);
    }
}

#[test]
fn nesting_without_end_is_refused() {
    // A directory of control groups within a directory, and so on, two thousand deep.
    let mut body = Vec::new();
    for _ in 0..2000 {
        let mut outer = vec![0x12];
        prost::encoding::encode_varint(body.len() as u64, &mut outer);
        outer.extend(&body);
        body = outer;
    }
    let mut dirs = vec![0x12];
    prost::encoding::encode_varint(body.len() as u64, &mut dirs);
    dirs.extend(&body);
    let mut entry = vec![0x12];
    prost::encoding::encode_varint(dirs.len() as u64, &mut entry);
    entry.extend(&dirs);
    let mut image = Writer::new(Image::Cgroup).finish();
    image.extend((entry.len() as u32).to_le_bytes());
    image.extend(entry);
    let result: Result<msg::CgroupEntry, Error> =
        cryopod_images::decode_one(Image::Cgroup, "cgroup.img", &image);
    assert!(matches!(result, Err(Error::Decode { .. })), "{result:?}");
}
