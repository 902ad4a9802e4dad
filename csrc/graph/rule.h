// Rules of updates: what one keeps beside the parameter, and the numbers of each of its steps.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "graph/node.h"

namespace edfcore {

struct Rule {
  enum Kind : std::uint8_t { sgd, momentum, adam } kind = sgd;
  double rate = 0;
  double decay = 0;                          // of momentum
  double beta1 = 0, beta2 = 0, epsilon = 0;  // of adam
};
inline constexpr std::size_t rule_kinds = 3;

const Op& op_of(Rule::Kind kind);

// What the op of an update reads beside the parameter and its gradient, in that order: moments, what does not
// change from step to step, and the count of steps.
enum class Part : std::uint8_t { first, second, numbers, steps };
std::span<const Part> parts_of(Rule::Kind kind);
Spec spec_of(Part part, const Spec& parameter);

// How many steps this has been kept for. A GPU's updates take none after bad data, so what was counted on is
// read again when an error was found.
std::int64_t steps_of(Optimised& kept);
void set_steps(Optimised& kept, std::int64_t steps, Device device);

// Attrs::scalar and Attrs::scalar2 of an update's op.
struct Scalars {
  double first = 0, second = 0;
  friend bool operator==(const Scalars&, const Scalars&) = default;
};

// Throws a graph or a shape error if a parameter has no gradient yet, or one that is not its own.
void check_grads(std::span<Node* const> parameters, const Op& op);

// Part::numbers: the three numbers of adam, in a dtype.
class RuleNumbers {
 public:
  const Tensor& of(const Rule& rule, DType dtype, Device device);

 private:
  std::array<double, 3> values_{};
  std::vector<Tensor> made_;
};

// Steps that update these parameters. What is new is written into Node::optimised when a step has been taken,
// so that one that fails leaves it as it was. A parameter may stand there twice.
class Updating {
 public:
  Updating(std::span<Node* const> parameters, const Rule& rule, RuleNumbers& numbers);

  std::span<const Scalars> next();  // of the step to come, by parameter
  void taken();                     // it has been

  const Tensor& read(std::size_t parameter, Part part) const;

 private:
  struct Own {
    Node* parameter;
    std::size_t same;    // where it stands first
    std::int64_t steps;  // with the one to come
    Tensor made[4];      // parts that the parameter does not have yet
  };
  Rule rule_;
  RuleNumbers& numbers_;
  std::vector<Own> own_;  // none for a rule that keeps nothing
  std::vector<Scalars> scalars_;
};

}  // namespace edfcore
