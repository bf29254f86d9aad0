//! Vectors without a model: a hash of the text, spread over a unit vector. Equal texts have equal vectors, others point
//! anywhere; the same on every machine.

use crate::llm::embed::{EmbedRequest, Embeddings};
use sha2::{Digest, Sha256};

/// As many as a common model has.
const DIMENSIONS: u32 = 1_536;

/// What the scripted provider answers.
pub fn embed(request: &EmbedRequest<'_>) -> Embeddings {
    let dimensions = request.dimensions.unwrap_or(DIMENSIONS);
    let tokens = |text: &String| text.len().div_ceil(4) as u64;
    Embeddings {
        model: request.model.to_owned(),
        vectors: request.input.iter().map(|text| vector(text, dimensions)).collect(),
        input_tokens: request.input.iter().map(tokens).sum(),
    }
}

fn vector(text: &str, dimensions: u32) -> Vec<f32> {
    let seed = Sha256::digest(text).iter().take(8).fold(0_u64, |seed, byte| seed << 8 | u64::from(*byte));
    let numbers: Vec<f64> = (1..=u64::from(dimensions)).map(|n| number(seed, n)).collect();
    let length = numbers.iter().map(|number| number * number).sum::<f64>().sqrt();
    numbers.iter().map(|number| (number / length) as f32).collect()
}

/// The nth of a sequence between -1 and 1, never 0 (splitmix64).
fn number(seed: u64, n: u64) -> f64 {
    let mut z = seed.wrapping_add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    // 53 bits, and half a step aside of 0.
    ((z >> 11) as f64 + 0.5) / (1_u64 << 52) as f64 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_units_and_differ_as_their_texts_do() {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let (one, other) = (vector("one", 1_536), vector("other", 1_536));
        assert!((dot(&one, &one) - 1.0).abs() < 1e-5);
        assert!(dot(&one, &other).abs() < 0.2);
        assert_eq!(one, vector("one", 1_536));
        assert_eq!(vector("x", 1)[0].abs(), 1.0);
    }
}
