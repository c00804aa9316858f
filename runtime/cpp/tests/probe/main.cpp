#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <stdexcept>

#include "base/error.h"
#include "probe/probe.h"

namespace libfam::probe {
namespace {

std::map<std::string, Command>& commands() {
  static std::map<std::string, Command> registered;
  return registered;
}

Json answer(const std::string& line) {
  try {
    const Json in = Json::parse(line);
    return {{"ok", commands().at(in.at("command").get<std::string>())(in)}};
  } catch (const Error& error) {
    return {{"error",
             {{"code", static_cast<int>(error.code())},
              {"class", python_class_of(error.code())},
              {"text", error.what()}}}};
  } catch (const std::exception& error) {
    return {{"error", {{"code", -1}, {"class", "std::exception"}, {"text", error.what()}}}};
  }
}

}  // namespace

Registration::Registration(const char* name, Command command) {
  commands().emplace(name, std::move(command));
}

void write_bytes(const std::string& path, const void* data, std::size_t nbytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(static_cast<const char*>(data), static_cast<std::streamsize>(nbytes));
  if (!file) throw std::runtime_error("cannot write " + path);
}

std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace libfam::probe

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    const auto text =
        libfam::probe::answer(line).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
    std::cout << text << std::endl;
  }
}
