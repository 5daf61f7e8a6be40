use llm_quantize_plugin_api::kernels::Serial;
use ndarray::s;
use proptest::prelude::*;

use super::*;

struct Stored {
    shape: Shape,
    parts: [Vec<u8>; 3],
}

impl Stored {
    /// As this plugin writes it.
    fn written(shape: Shape, solution: &Solution) -> Result<Self> {
        let stored = shape.stored().unwrap();
        let mut parts = byte_lengths(&stored, ElementType::F16).map(|length| vec![0xAA; length]);
        let [qweight, qzeros, scales] = &mut parts;
        write(&Serial, &shape, solution, [qweight, qzeros, scales])?;
        Ok(Self { shape, parts })
    }

    /// As AutoAWQ packs it, step by step: whole matrices are reshaped and transposed.
    fn gemv(shape: Shape, solution: &Solution) -> Self {
        let padded = shape.padded_groups().unwrap();
        let nibbles = |codes: &[u8]| {
            codes
                .chunks(2)
                .map(|c| c[0] | c[1] << 4)
                .collect::<Vec<u8>>()
        };
        let mut zeros = Array2::<u8>::zeros((shape.outputs, padded));
        let mut scales = Array2::<f32>::zeros((shape.outputs, padded));
        zeros
            .slice_mut(s![.., ..shape.groups()])
            .assign(&solution.zeros);
        scales
            .slice_mut(s![.., ..shape.groups()])
            .assign(&solution.scales);
        Self {
            shape,
            parts: [
                nibbles(solution.codes.as_slice().unwrap()),
                nibbles(zeros.as_slice().unwrap()),
                halves(scales.iter()),
            ],
        }
    }

    /// The same of `gemv_fast`.
    fn gemv_fast(shape: Shape, solution: &Solution) -> Self {
        let Shape {
            inputs: k,
            outputs: n,
            ..
        } = shape;
        let shuffled = solution.codes.to_shape((n, k / 32, 4, 4, 2)).unwrap();
        let shuffled = shuffled.permuted_axes([0, 1, 3, 2, 4]);
        let shuffled = shuffled.as_standard_layout();
        let shuffled = shuffled.to_shape((n, k / 32, 4, 4, 2)).unwrap();
        let shuffled = shuffled.permuted_axes([0, 1, 2, 4, 3]);
        let shuffled = shuffled.as_standard_layout();
        let rows = shuffled.to_shape((n / 4, 4, k / 64, 64)).unwrap();
        let rows = rows.permuted_axes([0, 2, 1, 3]);
        let nibbles: Vec<u8> = rows.iter().copied().collect();
        let words = nibbles.chunks(4).flat_map(|fields| {
            let fields = fields.iter().enumerate();
            let word = fields.fold(0u16, |word, (i, code)| word | u16::from(*code) << (4 * i));
            word.to_le_bytes()
        });
        let padded = shape.padded_groups().unwrap();
        let mut scales = Array2::<f32>::zeros((padded, n));
        let mut products = Array2::<f32>::zeros((padded, n));
        for ((row, group), scale) in solution.scales.indexed_iter() {
            scales[[group, row]] = *scale;
            products[[group, row]] = -scale * f32::from(solution.zeros[[row, group]]);
        }
        Self {
            shape,
            parts: [
                words.collect(),
                halves(products.iter()),
                halves(scales.iter()),
            ],
        }
    }

    fn packed(&self) -> Packed<'_> {
        let [qweight, qzeros, scales] = &self.parts;
        Packed {
            shape: self.shape,
            qweight,
            qzeros,
            scales,
            floats: ElementType::F16,
        }
    }
}

fn halves<'a>(numbers: impl Iterator<Item = &'a f32>) -> Vec<u8> {
    numbers.flat_map(|x| float16::f32_to_f16(*x)).collect()
}

fn made_up(shape: Shape, seed: u64) -> Solution {
    let mut state = seed | 1;
    let mut next = |below: u32| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u32 % below
    };
    let (rows, groups) = (shape.outputs, shape.groups());
    let half = |x: f32| float16::f16_to_f32(float16::f32_to_f16(x));
    Solution {
        codes: Array2::from_shape_simple_fn((rows, shape.inputs), || next(16) as u8),
        scales: Array2::from_shape_simple_fn((rows, groups), || half((next(999) + 1) as f32 / 7e3)),
        zeros: Array2::from_shape_simple_fn((rows, groups), || next(16) as u8),
    }
}

/// Two inputs in one group, eight outputs.
#[test]
fn the_bytes_are_those_of_the_format() {
    let shape = Shape {
        inputs: 2,
        outputs: 8,
        group: 2,
        version: Version::Gemm,
    };
    let solution = Solution {
        codes: Array2::from_shape_fn((8, 2), |(n, k)| (n + 8 * k) as u8),
        scales: Array2::from_shape_fn((8, 1), |(n, _)| (n + 1) as f32),
        zeros: Array2::from_shape_fn((8, 1), |(n, _)| 15 - n as u8),
    };
    let stored = Stored::written(shape, &solution).unwrap();
    let [qweight, qzeros, scales] = &stored.parts;
    assert_eq!(qweight, &[0x20, 0x64, 0x31, 0x75, 0xA8, 0xEC, 0xB9, 0xFD]);
    assert_eq!(qzeros, &[0xDF, 0x9B, 0xCE, 0x8A]);
    assert_eq!(scales[..4], [0x00, 0x3C, 0x00, 0x40]);
    let mut row = [0.0; 2];
    stored.packed().decode(3..4, &mut row).unwrap();
    // Codes 3 and 11, zero 12, scale 4.
    assert_eq!(row, [-36.0, -4.0]);
}

#[test]
fn what_is_not_there_is_refused() {
    let shape = Shape {
        inputs: 64,
        outputs: 8,
        group: 32,
        version: Version::Gemm,
    };
    let solution = made_up(shape, 1);
    let stored = Stored::written(shape, &solution).unwrap();
    let packed = stored.packed();
    assert!(packed.decode(8..9, &mut [0.0; 64]).is_err());
    assert!(packed.decode(0..1, &mut [0.0; 65]).is_err());
    for part in 0..3 {
        let mut stored = Stored::written(shape, &solution).unwrap();
        stored.parts[part].pop();
        let error = stored.packed().decode(0..1, &mut [0.0; 64]).unwrap_err();
        assert!(error.message.contains("bytes, expected"), "{error}");
    }
    // Sizes that the version does not have.
    let other = Packed {
        shape: Shape {
            inputs: 96,
            version: Version::GemvFast,
            ..shape
        },
        ..packed
    };
    assert!(other.groups(0..1).is_err());
    let wide = Shape {
        outputs: 16,
        ..shape
    };
    assert!(Stored::written(wide, &solution).is_err());
}

proptest! {
    #[test]
    fn every_version_decodes_to_the_solution(
        version in prop::sample::select(Version::ALL.to_vec()),
        words in 1usize..20,
        blocks in 1usize..6,
        group in prop::sample::select(vec![32usize, 64, 128, 0]),
        seed in any::<u64>(),
    ) {
        let inputs = blocks * 128;
        let shape = Shape {
            inputs,
            outputs: words * PACK,
            group: if group == 0 { inputs } else { group },
            version,
        };
        let solution = made_up(shape, seed);
        let stored = match version {
            Version::Gemm => Stored::written(shape, &solution).unwrap(),
            Version::Gemv => Stored::gemv(shape, &solution),
            Version::GemvFast => Stored::gemv_fast(shape, &solution),
        };
        match Version::WRITTEN.contains(&version) {
            true => prop_assert_eq!(&Stored::written(shape, &solution).unwrap().parts, &stored.parts),
            false => prop_assert!(Stored::written(shape, &solution).is_err()),
        }
        let first = shape.outputs / 3;
        let rows = stored.packed().rows(first..shape.outputs).unwrap();
        prop_assert_eq!(rows.codes, solution.codes.slice(s![first.., ..]));
        prop_assert_eq!(&rows.groups.scales, &solution.scales.slice(s![first.., ..]));
        let zeros = solution.zeros.mapv(f32::from);
        prop_assert_eq!(&rows.groups.zeros, &zeros.slice(s![first.., ..]));
        let mut decoded = vec![0.0; (shape.outputs - first) * inputs];
        stored.packed().decode(first..shape.outputs, &mut decoded).unwrap();
        let expected = solution.dequantize();
        prop_assert!(decoded.iter().eq(expected.slice(s![first.., ..]).iter()));
    }
}
